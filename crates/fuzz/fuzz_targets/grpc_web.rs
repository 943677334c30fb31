//! libFuzzer's way into [`mi_fuzz::grpc_web`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mi_fuzz::grpc_web(data);
});
