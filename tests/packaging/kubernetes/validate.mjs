// Validates Kubernetes objects by the npm packages kubernetes-models and its like.
//
//     node validate.mjs NODE_MODULES <OBJECTS.json      prints [[what is wrong with the first], [second], ...]
//
// Their schemas let any further member pass, so each object is handed over in a proxy that remembers what the
// validator looked at: what it has not looked at is no member that Kubernetes knows.
import { existsSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "argoproj.io/Application": "@kubernetes-models/argo-cd",
  "argoproj.io": "@kubernetes-models/argo-rollouts",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

async function modelOf(object) {
  const [group] = object.apiVersion.includes("/") ? object.apiVersion.split("/") : [""];
  const name = PACKAGES[`${group}/${object.kind}`] ?? PACKAGES[group] ?? "kubernetes-models";
  const path = `${process.argv[2]}/${name}/${object.apiVersion}/${object.kind}.js`;
  if (!existsSync(path)) throw new Error(`${name} has no ${object.apiVersion} ${object.kind}`);
  const url = pathToFileURL(path);
  // The model hands a copy to this function, so what is looked at shows only when it is called directly.
  const schema = /from"([./]+_schemas\/\w+\.js)"/.exec(readFileSync(path, "utf8"))[1];
  return [(await import(url))[object.kind], (await import(new URL(schema, url))).validate];
}

function watched(value, seen) {
  if (value === null || typeof value !== "object") return value;
  const inner = Array.isArray(value) ? [] : {};
  const looked = new Set();
  for (const key of Object.keys(value)) inner[key] = watched(value[key], seen);
  const proxy = new Proxy(inner, {
    get(target, key) {
      looked.add(key);
      return target[key];
    },
  });
  seen.push([value, looked]);
  return proxy;
}

// Where the schema says "anything": no member of these is looked at, nor of what lies below.
const FREE = /^\/spec\/source\/helm\/valuesObject\b/;

function unknown(value, proxies, at) {
  if (value === null || typeof value !== "object") return [];
  const found = [];
  const looked = proxies.get(value);
  for (const key of Object.keys(value)) {
    const here = `${at}/${key}`;
    if (FREE.test(here)) continue;
    if (!Array.isArray(value) && !looked.has(key)) found.push(`${here}: no such member`);
    else found.push(...unknown(value[key], proxies, here));
  }
  return found;
}

async function faults(object) {
  const seen = [];
  try {
    const [Model, validate] = await modelOf(object);
    new Model(object).validate();
    validate(watched(object, seen));
  } catch (error) {
    return [error.message];
  }
  return unknown(object, new Map(seen.map(([value, looked]) => [value, looked])), "");
}

const objects = JSON.parse(readFileSync(0, "utf8"));
const all = [];
for (const object of objects) all.push(await faults(object));
console.log(JSON.stringify(all));
