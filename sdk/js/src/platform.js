// The platform that the SDK calls: interfaces of the contract, in the shape that componentize-js
// gives them. This file is for Node, where a test installs a fake. In a component, build.mjs puts a
// module in its place that imports what the skill was granted.

let installed;

/** Has the SDK call this platform for as long as `act` takes. */
export async function using(platform, act) {
  if (installed) throw new Error('one run at a time: await the run before the next one starts');
  installed = platform;
  try {
    return await act();
  } finally {
    installed = undefined;
  }
}

/** An interface of the contract. */
export function platform(name) {
  if (!installed) {
    throw new Error("outside a run the platform answers nothing: use Host of '@eve-horizon/sdk/testing'");
  }
  return installed[name];
}
