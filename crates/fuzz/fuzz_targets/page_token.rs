//! libFuzzer's way into [`mi_fuzz::page_token`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mi_fuzz::page_token(data);
});
