// Acts with an exported policy in JavaScript, in a browser or in Node: npm install onnxruntime-web
//
//     node exported_policy.mjs policy.onnx observations.json
//
// prints an action for each observation of the list, or of pairs {observation, masks}. Elsewhere copy the class
// ExportedPolicy: it follows the JSON that lies beside the policy, as exported_policy.py does.

import * as ort from "onnxruntime-web";

export class ExportedPolicy {
  // session: of onnxruntime; description: the JSON beside the policy.
  constructor(session, description) {
    this.session = session;
    this.inputs = Object.fromEntries(description.inputs.map((entry) => [entry.name, entry]));
    this.outputs = description.outputs;
  }

  // The action for an observation, in the structure that the environment expects; arrays are flat, in row-major
  // order. masks: which choices are valid, one array for each decision in the order of the action.
  async act(observation, masks = null) {
    const feeds = { observation: this.#row(observation) };
    if (this.inputs.action_mask) feeds.action_mask = this.#mask(masks);
    const results = await this.session.run(feeds);
    const tree = {};
    for (const { name, keys, shape } of this.outputs) {
      const values = Array.from(results[name].data, Number); // whole numbers come as BigInt
      put(tree, keys, shape.length === 1 ? values[0] : values);
    }
    const options = this.outputs.filter((entry) => entry.one_of).map((entry) => entry.keys.slice(0, -1));
    return "" in tree ? tree[""] : structure(tree, options.map(String), []);
  }

  // [1, O]: each part of the observation in its columns.
  #row(observation) {
    const { shape, parts } = this.inputs.observation;
    const row = new Float32Array(shape[1]);
    for (const { keys, columns, encoding, choices, start } of parts) {
      const values = [keys.reduce((value, key) => value[key], observation)].flat(Infinity).map(Number);
      if (encoding === "numbers") {
        row.set(values, columns[0]);
        continue;
      }
      const widths = [choices].flat(Infinity), starts = [start].flat(Infinity);
      let column = columns[0];
      values.forEach((value, i) => {
        row[column + value - starts[i]] = 1;
        column += widths[i];
      });
    }
    return new ort.Tensor("float32", row, [1, shape[1]]);
  }

  // [1, ...]: 1 for valid choices; without masks that is all of them.
  #mask(masks) {
    const counts = this.outputs.flatMap((entry) => [entry.choices ?? []].flat(Infinity));
    const valid = masks ? masks.flat(Infinity).map(Number) : counts.flatMap((count) => Array(count).fill(1));
    const [, ...shape] = this.inputs.action_mask.shape;
    if (shape.length === 1) return new ort.Tensor("bool", Uint8Array.from(valid), [1, ...shape]);
    const mask = new Uint8Array(shape[0] * shape[1]);
    let first = 0;
    counts.forEach((count, head) => {
      mask.set(valid.slice(first, first + count), head * shape[1]);
      first += count;
    });
    return new ort.Tensor("bool", mask, [1, ...shape]);
  }
}

function put(tree, keys, value) {
  for (const key of keys.slice(0, -1)) tree = tree[key] ??= {};
  tree[keys.length ? keys.at(-1) : ""] = value;
}

// Numbered parts are those of an array; of [which option, the options] the one that is taken stays.
function structure(tree, options, keys) {
  if (typeof tree !== "object" || Array.isArray(tree)) return tree;
  const parts = Object.entries(tree).map(([key, part]) => [key, structure(part, options, [...keys, key])]);
  if (options.includes(String(keys))) {
    const [option, all] = [Number(parts[0][1]), parts[1][1]];
    return [option, all[option]];
  }
  return parts.every(([key]) => /^\d+$/.test(key)) ? parts.map(([, part]) => part) : Object.fromEntries(parts);
}

if (typeof process !== "undefined" && import.meta.url === `file://${process.argv[1]}`) {
  const { readFile } = await import("node:fs/promises");
  const [policy, observations] = process.argv.slice(2);
  const session = await ort.InferenceSession.create(await readFile(policy));
  const player = new ExportedPolicy(session, JSON.parse(await readFile(`${policy}.json`, "utf8")));
  for (const given of JSON.parse(await readFile(observations, "utf8"))) {
    const paired = given !== null && typeof given === "object" && "masks" in given;
    const action = paired ? await player.act(given.observation, given.masks) : await player.act(given);
    console.log(JSON.stringify(action));
  }
}
