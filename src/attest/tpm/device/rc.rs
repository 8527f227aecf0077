//! The response codes of a TPM (`TPM_RC`, Part 2, 6.6), and words for them.

pub(super) const FAILURE: u32 = 0x101;
pub(super) const ASYMMETRIC: u32 = 0x081;
pub(super) const VALUE: u32 = 0x084;
pub(super) const KEY_SIZE: u32 = 0x087;
pub(super) const TYPE: u32 = 0x08a;
pub(super) const HANDLE: u32 = 0x08b;
pub(super) const AUTH_FAIL: u32 = 0x08e;
pub(super) const POLICY_FAIL: u32 = 0x09d;
pub(super) const INTEGRITY: u32 = 0x09f;
pub(super) const BAD_AUTH: u32 = 0x0a2;
pub(super) const PCR_CHANGED: u32 = 0x128;
pub(super) const NV_UNINITIALIZED: u32 = 0x14a;
pub(super) const OBJECT_MEMORY: u32 = 0x902;
pub(super) const SESSION_MEMORY: u32 = 0x903;
pub(super) const SESSION_HANDLES: u32 = 0x905;
pub(super) const OBJECT_HANDLES: u32 = 0x906;
pub(super) const YIELDED: u32 = 0x908;
pub(super) const TESTING: u32 = 0x90a;
pub(super) const LOCKOUT: u32 = 0x921;
pub(super) const RETRY: u32 = 0x922;

/// The code without the number of the handle, session or parameter that it is about, and without the layer it comes from.
pub(super) fn base(code: u32) -> u32 {
    if code & 0x80 == 0 { code & 0x97f } else { code & 0x0bf }
}

/// What a code means; empty if it is none of those that are to be expected here.
pub(super) fn words(code: u32) -> &'static str {
    match base(code) {
        0x100 => "the TPM was not started",
        FAILURE => "the TPM has failed and must be reset",
        0x120 => "the command is disabled",
        0x143 => "the command is not known",
        0x146 => "the offset is outside the memory",
        0x148 => "the memory is locked",
        0x149 => "reading the memory is not allowed in this way",
        NV_UNINITIALIZED => "the memory was never written",
        ASYMMETRIC => "the kind of key is not supported",
        0x082 => "the attributes are not allowed",
        0x083 => "the hash function is not supported",
        VALUE => "a value is out of range",
        0x085 => "the hierarchy is disabled",
        KEY_SIZE => "the size of the key is not supported",
        TYPE => "the type is not allowed",
        HANDLE => "there is nothing under this handle",
        0x092 => "the scheme is not supported",
        0x095 => "a structure has the wrong size",
        0x09a => "the command is too short",
        0x09c => "the key does not fit",
        POLICY_FAIL => "the policy is not fulfilled",
        0x0a6 => "the curve is not supported",
        0x0a7 => "the point is not on the curve",
        0x907 => "the locality is wrong",
        0x923 => "the memory is busy",
        _ => "",
    }
}

/// Whether the TPM only asks to send the command again.
pub(super) fn is_busy(code: u32) -> bool {
    matches!(base(code), RETRY | YIELDED | TESTING)
}

#[cfg(test)]
mod tests {
    use super::{HANDLE, INTEGRITY, LOCKOUT, PCR_CHANGED, POLICY_FAIL, RETRY, base, is_busy};

    #[test]
    fn numbers_of_parameters_and_layers_are_left_out() {
        assert_eq!(base(0x18b), HANDLE, "handle 1");
        assert_eq!(base(0x99d), POLICY_FAIL, "session 1");
        assert_eq!(base(0x1df), INTEGRITY, "parameter 1");
        assert_eq!(base(0x128), PCR_CHANGED);
        assert_eq!(base(0x921), LOCKOUT);
        assert_eq!(base(0x000b_0143), 0x143, "from a resource manager");
        assert!(is_busy(RETRY) && !is_busy(0x923));
    }
}
