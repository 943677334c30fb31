//! Prints what `/openapi.json` answers, for `cargo xtask openapi`.

fn main() {
    print!("{}", mi_http::openapi());
}
