#![no_main]
//! See `portdistrict::fuzzing::event_log`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::event_log(data));
