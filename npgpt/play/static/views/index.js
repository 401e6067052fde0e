// The views, in the order of the navigation.

import { nextToken } from "./next-token.js";

export const VIEWS = [nextToken];
