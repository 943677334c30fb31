//! libFuzzer's way into [`mi_fuzz::json`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mi_fuzz::json(data);
});
