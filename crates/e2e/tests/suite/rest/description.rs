//! What the platform says of itself, for programs.

use std::{env, fs, path::PathBuf, process::Command};

use http::Method;
use mi_testkit::Platform;
use serde_json::{Value, json};

use super::client::Rest;

#[tokio::test]
async fn anyone_may_read_what_there_is() {
    let platform = Platform::builder().start().await;
    let nobody = Rest::new(platform.endpoint(), "").unknown();
    let answer = nobody.get("/openapi.json").await;
    let document: Value = answer.ok();
    assert_eq!((&document["openapi"], &document["info"]["title"]), (&json!("3.1.0"), &json!("mi")));
    let kept = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json")).expect("kept");
    assert_eq!(serde_json::from_str::<Value>(&kept).expect("JSON"), document, "run `cargo xtask openapi`");
    let etag = answer.header("etag").expect("a tag").to_owned();
    let known = nobody.send(Method::GET, "/openapi.json", &[("if-none-match", &etag)], &[]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = nobody.empty(Method::HEAD, "/openapi.json").await;
    let length = answer.body.len().to_string();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some(length.as_str()), 0));
    assert_eq!(nobody.empty(Method::POST, "/openapi.json").await.refusal().0, 405);
}

/// Other people's tools take the description. They come from npm, so this does something only where `MI_TEST_SDK` names a
/// directory for them.
#[test]
fn tools_of_others_take_it() {
    let Some(directory) = env::var_os("MI_TEST_SDK").map(|directory| PathBuf::from(directory).join("openapi")) else {
        return;
    };
    fs::create_dir_all(&directory).expect("made");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"), directory.join("openapi.json"))
        .expect("copied");
    let run = |line: &str| {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        let output = command.args(words).current_dir(&directory).output().expect("started");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}: {said}");
    };
    fs::write(directory.join("package.json"), r#"{"private": true, "type": "module"}"#).expect("written");
    run("npm install --silent --no-audit --no-fund @redocly/cli@2 openapi-typescript@7 typescript@5");
    run("node_modules/.bin/redocly lint openapi.json");
    run("node_modules/.bin/openapi-typescript openapi.json -o api.ts");
    let uses = "import type { components, paths } from './api.js';\n\
        export const id = (task: components['schemas']['Task']): string => task.id;\n\
        export type Hire = NonNullable<paths['/v1/offices/{office_id}/agents']['post']['requestBody']>['content']['application/json'];\n\
        export const hire: Hire = { name: 'bob' };\n";
    fs::write(directory.join("uses.ts"), uses).expect("written");
    run("node_modules/.bin/tsc --noEmit --strict --module nodenext --target es2022 uses.ts");
}
