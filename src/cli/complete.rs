//! Values that a shell completes: asked of the ledger, read-only, never failing, never prompting.

use clap_complete::CompleteEnv;

/// Answers and exits if a shell asks (variable `COMPLETE`); costs one look at the environment otherwise.
pub(super) fn answer() {
    CompleteEnv::with_factory(super::definition).complete();
}
