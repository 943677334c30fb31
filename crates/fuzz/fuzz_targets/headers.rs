//! libFuzzer's way into [`mi_fuzz::headers`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mi_fuzz::headers(data);
});
