// For tests: `node --import …/sdk/js/register.mjs --test` finds `@eve-horizon/sdk` here, without a
// node_modules folder in the skill.

import { register } from 'node:module';

register(new URL('./src/resolve.js', import.meta.url));
