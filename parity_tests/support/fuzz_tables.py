"""Forge LevelDB tables, the index of TensorFlow's checkpoints, under valid checksums."""

from parity_tests.support import bundles, fuzz


def forge_table(pairs, rng):
    """Return a LevelDB table with a change of a block, the index, a pair or a field of it."""
    pairs, i = [*pairs], rng.randrange(len(pairs))
    groups = [pairs[j : j + 4] for j in range(0, len(pairs), 4)]
    blocks = [(group[-1][0], bundles.block(group, interval=3)) for group in groups]
    key, value = pairs[i]
    match rng.choice(["file", "block", "index", "value", "key", "field"]):
        case "file":
            return change_varints(bundles.assemble(blocks), rng)
        case "block":
            key, content = blocks[i % len(blocks)]
            blocks[i % len(blocks)] = key, change_varints(content, rng)
            return bundles.assemble(blocks)
        case "index":
            return bundles.assemble(blocks, change_index=lambda index: change_varints(index, rng))
        case "value":
            pairs[i] = key, change_varints(value, rng)
        case "key":
            pairs[i] = change_varints(key, rng), value
        case "field":
            names = rng.sample(["kind", "shard", "offset", "size"], rng.randint(0, 3))
            fields = {name: rng.choice(fuzz.NUMBERS) for name in names}
            shape = rng.choice([(1, 2), (2,), (rng.choice(fuzz.NUMBERS), rng.choice(fuzz.NUMBERS))])
            pairs[i] = key, bundles.entry("float32", shape, bytes(8), **fields)
    return bundles.table(pairs, block_size=100)


def change_varints(data, rng):
    """Return the bytes after changes, with numbers as varints."""
    return fuzz.change_bytes(data, rng, bundles.varint)
