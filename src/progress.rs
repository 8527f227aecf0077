//! How long work reports itself, without knowing who listens: a terminal, a pipe, JSON, a test or nobody.

/// A listener for named steps. Implementations live in the face; the library only calls them.
pub trait Progress: Send + Sync {
    /// A step begins; it lasts until the returned handle is dropped or finished.
    fn step(&self, name: &str) -> Box<dyn Step>;
}

/// One step under way.
pub trait Step: Send {
    /// Tells what the step waits for now, in a few words.
    fn note(&self, text: &str);
    /// Sets how far a step of known size has come, in bytes.
    fn bytes(&self, done: u64, total: u64);
    /// The step ended well.
    fn done(self: Box<Self>);
}

/// Listens to nothing; for tests and for callers that want no progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _name: &str) -> Box<dyn Step> {
        Box::new(Silent)
    }
}

impl Step for Silent {
    fn note(&self, _text: &str) {}
    fn bytes(&self, _done: u64, _total: u64) {}
    fn done(self: Box<Self>) {}
}
