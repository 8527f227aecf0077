#![no_main]
//! See `portdistrict::fuzzing::caveat_decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portdistrict::fuzzing::caveat_decode(data));
