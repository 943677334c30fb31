//! A model server without a model, for the research team of the examples, or for the vendors' libraries:
//! `fake-model [ADDRESS [sdk]]`.

use std::net::SocketAddr;

use mi_testkit::model::{FakeModel, ModelApi, sdk, team};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let Ok(listen) = listen.parse::<SocketAddr>() else {
        eprintln!("error: {listen:?} is no address; give HOST:PORT, such as 127.0.0.1:7410");
        std::process::exit(2);
    };
    let script = if std::env::args().nth(2).as_deref() == Some("sdk") { sdk::reply } else { team::reply };
    let model = FakeModel::scripted(listen, script).await;
    println!("--model-api openai --model-url {}", model.url(ModelApi::OpenAi));
    model.run().await;
}
