//! Evidence of every kind, good and bad, with the rung and the reason that each must come to.
