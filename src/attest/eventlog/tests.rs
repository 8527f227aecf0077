//! Real logs of virtual machines (QEMU, OVMF of edk2 2022.11, swtpm, Debian's stub 252 and kernel 6.12.117), and what becomes of them.
//! `testdata/README.md` tells how they were made.

mod compare;
mod flips;
mod format;
pub(crate) mod support;
