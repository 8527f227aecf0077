//! The signed things that travel: identity, grant, invite, revocation.

/// What a grant allows in all; `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in both directions together.
    pub bytes: Option<u64>,
    /// Bits a second, each direction.
    pub bits_per_second: Option<u64>,
    /// Streams open at once.
    pub streams: Option<u32>,
}
