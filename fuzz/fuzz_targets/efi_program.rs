#![no_main]
//! See `portdistrict::fuzzing::efi_program`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::efi_program(data));
