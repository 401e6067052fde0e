// The views, in the order of the navigation.

import { attention } from "./attention.js";
import { backwards } from "./backwards.js";
import { logitLens } from "./logit-lens.js";
import { muonSteps } from "./muon.js";
import { nextToken } from "./next-token.js";
import { nudge } from "./nudge.js";
import { ravine } from "./ravine.js";
import { oneStep } from "./step.js";
import { training } from "./training.js";
import { writing } from "./writing.js";

export const VIEWS = [nextToken, writing, attention, logitLens, backwards, oneStep, nudge, training, ravine, muonSteps];
