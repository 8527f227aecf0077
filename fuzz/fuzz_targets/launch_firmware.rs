#![no_main]
//! See `portdistrict::fuzzing::launch_firmware`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::launch_firmware(data));
