/** The service's API. Paths are relative to the page, so that a proxy may serve it below a path of its own. */

import { askForKey, keyHeaders } from "./api_key.js";

const HEADER_LENGTH = "Inference-Header-Content-Length";
const ARRAYS = { FP32: Float32Array, FP64: Float64Array, INT64: BigInt64Array };

/** An answer that is not 2xx; the message is the server's own. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  } catch (error) {
    throw new ApiError(0, `No answer from the server: ${error.message}`);
  }
  if (response.ok) return response;
  const text = await response.text();
  const error = new ApiError(response.status, said(text) ?? `${response.status} ${response.statusText}: ${text}`);
  if (response.status === 401) askForKey(error);
  throw error;
}

function said(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return undefined; // a proxy's page
  }
}

export const getText = async (path) => (await ask(path, { cache: "no-store" })).text();

export const getJson = async (path) => (await ask(path)).json();

export async function postJson(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/**
 * Run a model with one input, binary both ways: bits are what is compared here.
 * input: {name, datatype, shape, data: a typed array}. Answers {shape, data, bytes} of the output that is named.
 */
export async function infer(model, input, output, parameters = {}) {
  const { name, datatype, shape, data } = input;
  const header = new TextEncoder().encode(
    JSON.stringify({
      parameters,
      inputs: [{ name, datatype, shape, parameters: { binary_data_size: data.byteLength } }],
      outputs: [{ name: output, parameters: { binary_data: true } }],
    }),
  );
  const response = await ask(`v2/models/${model}/infer`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", [HEADER_LENGTH]: header.length },
    body: joined(header, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)),
  });
  const body = await response.arrayBuffer();
  const length = Number(response.headers.get(HEADER_LENGTH));
  const answered = JSON.parse(new TextDecoder().decode(body.slice(0, length))).outputs[0];
  const bytes = body.slice(length); // a copy, which begins where a typed array may
  return { shape: answered.shape, data: new ARRAYS[answered.datatype](bytes), bytes: new Uint8Array(bytes) };
}

function joined(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    all.set(part, end);
    end += part.length;
  }
  return all;
}
