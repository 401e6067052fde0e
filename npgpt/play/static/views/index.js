// The views, in the order of the navigation.

import { attention } from "./attention.js";
import { logitLens } from "./logit-lens.js";
import { nextToken } from "./next-token.js";
import { writing } from "./writing.js";

export const VIEWS = [nextToken, writing, attention, logitLens];
