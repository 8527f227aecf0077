//! Machines at a server that is reached by SSH.

use super::check::Check;
use super::provider::{Deployed, Expectation, Job, LineSink, Plan, Power, Provider, Site};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::progress::Progress;

/// The provider.
pub(super) struct Ssh<'c> {
    _cx: &'c Context,
}

impl Ssh<'_> {
    pub(super) fn new(cx: &Context) -> Ssh<'_> {
        Ssh { _cx: cx }
    }
}

fn not_yet<'a, T: 'a>() -> Job<'a, T> {
    Box::pin(async { Err(refusal()) })
}

fn refusal() -> Error {
    Error::new(Code::Failed, "this version makes no machines at a server that is reached by SSH").hint("upgrade portdistrict")
}

impl Provider for Ssh<'_> {
    fn describe<'a>(&'a self, _plan: &'a Plan) -> Job<'a, Vec<String>> {
        not_yet()
    }

    fn deploy<'a>(&'a self, _plan: &'a Plan, _progress: &'a dyn Progress) -> Job<'a, Deployed> {
        not_yet()
    }

    fn start<'a>(&'a self, _site: &'a Site, _progress: &'a dyn Progress) -> Job<'a, bool> {
        not_yet()
    }

    fn stop<'a>(&'a self, _site: &'a Site) -> Job<'a, ()> {
        not_yet()
    }

    fn power<'a>(&'a self, _site: &'a Site) -> Job<'a, Power> {
        not_yet()
    }

    fn pid(&self, _site: &Site) -> Option<i32> {
        None
    }

    fn logs<'a>(&'a self, _site: &'a Site, _lines: usize, _follow: bool, _sink: LineSink<'a>) -> Job<'a, ()> {
        not_yet()
    }

    fn expectation(&self, _site: &Site) -> Result<Expectation> {
        Err(refusal())
    }

    fn destroy<'a>(&'a self, _site: &'a Site) -> Job<'a, ()> {
        not_yet()
    }

    fn doctor<'a>(&'a self, _site: Option<&'a Site>) -> Job<'a, Vec<Check>> {
        not_yet()
    }
}
