// The texts of tokens.

const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const LENIENT = new TextDecoder("utf-8", { ignoreBOM: true });
const SHOWN = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣" };

export class Vocabulary {
  /** `text`: the bytes of all tokens in a row; `lengths`: how many of them each one has. */
  constructor(text, lengths, endOfText) {
    this.bytes = text;
    this.size = lengths.length;
    this.endOfText = endOfText;
    this.starts = new Uint32Array(lengths.length + 1);
    for (let i = 0; i < lengths.length; i++) this.starts[i + 1] = this.starts[i] + lengths[i];
    this.words = null;
  }

  /** Return the bytes of a token. */
  bytesOf(id) {
    return this.bytes.subarray(this.starts[id], this.starts[id + 1]);
  }

  /** Return the text of a token for a label: white space is visible, half a character is in hex. */
  label(id) {
    if (this.words) return this.words[id];
    const bytes = this.bytesOf(id);
    if (!bytes.length) return `‹${id}›`;
    let text;
    try {
      text = STRICT.decode(bytes);
    } catch {
      return `‹${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ")}›`;
    }
    return text.replace(/^ +| +$|[\n\r\t]/g, (found) => Array.from(found, (c) => SHOWN[c]).join(""))
      .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u00a0]/gu, (c) => `‹${c.codePointAt(0).toString(16).padStart(2, "0")}›`);
  }

  /** Return the text of several tokens, as it is written. */
  text(ids) {
    const parts = Array.from(ids, (id) => this.bytesOf(id));
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let offset = 0;
    for (const part of parts) {
      all.set(part, offset);
      offset += part.length;
    }
    return LENIENT.decode(all);
  }

  /** Return a vocabulary of these words, without a model. */
  static ofWords(words) {
    const made = new Vocabulary(new Uint8Array(), new Uint16Array(words.length), null);
    made.words = words;
    return made;
  }
}
