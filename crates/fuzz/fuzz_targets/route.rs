//! libFuzzer's way into [`mi_fuzz::route`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mi_fuzz::route(data);
});
