// Calls of the server: one POST each, whose answer is a stream of frames (npgpt/play/frames.py).

const TOKEN = document.querySelector("meta[name=token]").content;
const TYPES = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array };

/** An error whose message is one line for the reader. */
export class ApiError extends Error {}

/**
 * Call a function of the server and return its result: the fields of the JSON, and every array
 * under its name, as a typed array with the property `shape`.
 *
 * options: signal (of an AbortController), onProgress({done, total, text}), onEvent(result).
 */
export async function call(name, body, { signal, onProgress, onEvent } = {}) {
  let response;
  try {
    response = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Npgpt-Token": TOKEN },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Has npgpt play ended? Start it, and reload this page.");
  }
  if (!response.ok) throw new ApiError((await response.text()).trim() || `status ${response.status}`);
  const reader = new FrameReader(response.body.getReader());
  for (;;) {
    const frame = await reader.next();
    if (frame === null) throw new ApiError("The server has ended before it answered.");
    if (frame.kind === "result") return frame;
    if (frame.kind === "error") throw new ApiError(frame.message);
    if (frame.kind === "progress") onProgress?.(frame);
    if (frame.kind === "event") onEvent?.(frame);
  }
}

class FrameReader {
  constructor(reader) {
    this.reader = reader;
    this.chunks = [];
    this.size = 0;
  }

  /** Return the next frame, or null at the end of the stream. */
  async next() {
    const head = await this.take(4);
    if (head === null) return null;
    const length = new DataView(head.buffer).getUint32(0, true);
    const frame = JSON.parse(new TextDecoder().decode(await this.take(length)));
    if (frame.arrays) {
      const bytes = await this.take(frame.size);
      let offset = 0;
      for (const [name, [type, shape]] of Object.entries(frame.arrays)) {
        const count = shape.reduce((a, b) => a * b, 1);
        const size = count * TYPES[type].BYTES_PER_ELEMENT;
        frame[name] = new TYPES[type](bytes.buffer.slice(offset, offset + size));
        frame[name].shape = shape;
        offset += size;
      }
    }
    return frame;
  }

  /** Return `count` bytes in an array of their own, or null if the stream has ended. */
  async take(count) {
    while (this.size < count) {
      const { done, value } = await this.reader.read();
      if (done) return null;
      this.chunks.push(value);
      this.size += value.length;
    }
    const taken = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      const chunk = this.chunks[0];
      const part = chunk.subarray(0, count - filled);
      taken.set(part, filled);
      filled += part.length;
      if (part.length === chunk.length) this.chunks.shift();
      else this.chunks[0] = chunk.subarray(part.length);
    }
    this.size -= count;
    return taken;
  }
}
