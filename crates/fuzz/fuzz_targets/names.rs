//! libFuzzer's way into [`mi_fuzz::names`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mi_fuzz::names(data);
});
