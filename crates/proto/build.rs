//! Compiles proto/ with protox, so that a build needs no protoc.

use std::{collections::BTreeMap, env, fmt::Write, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor, Value};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let public = [
        "mi/v1/access.proto",
        "mi/v1/access_service.proto",
        "mi/v1/activity_service.proto",
        "mi/v1/agent_service.proto",
        "mi/v1/chat_service.proto",
        "mi/v1/credit_service.proto",
        "mi/v1/drive_service.proto",
        "mi/v1/integration_service.proto",
        "mi/v1/log_service.proto",
        "mi/v1/office_service.proto",
        "mi/v1/quota.proto",
        "mi/v1/task_service.proto",
    ];
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // Two sets: what reflection shows to strangers, and everything. Encoded by protox itself, because prost_types drops
    // the method options that carry the access rules.
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(public)?;
    fs::write(out.join("public.bin"), compiler.encode_file_descriptor_set())?;
    compiler.open_files(["mi/internal/v1/internal.proto", "mi/internal/v1/metering.proto"])?;
    fs::write(out.join("all.bin"), compiler.encode_file_descriptor_set())?;

    // A protocol of others, which has no access rules of ours.
    let mut compiler_of_others = protox::Compiler::new([&root])?;
    compiler_of_others.include_imports(true);
    compiler_of_others.open_files(["lf/a2a/v1/a2a.proto"])?;
    fs::write(out.join("a2a.bin"), compiler_of_others.encode_file_descriptor_set())?;

    let secret = secret_messages(&compiler.descriptor_pool())?;
    let paths = secret.iter().map(|message| format!(".{}", message.full_name()));
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::SmallStart")
        .skip_debug(paths.collect::<Vec<_>>())
        .compile_fds(compiler.file_descriptor_set())?;
    for (package, text) in debugs(&secret)? {
        fs::write(out.join(format!("{package}.debug.rs")), text)?;
    }
    Ok(())
}

/// The messages with a field that must not be printed. Its `Debug` is made below, since prost's prints everything.
fn secret_messages(pool: &DescriptorPool) -> Result<Vec<MessageDescriptor>, String> {
    let messages = pool.all_messages().filter(|message| message.package_name().starts_with("mi."));
    let secret: Vec<_> = messages.filter(|message| message.fields().any(|field| is_secret(&field))).collect();
    // None so far needs more than this; whoever adds the first one finds it said here.
    match secret.iter().find(|message| message.parent_message().is_some() || has_oneof(message)) {
        None => Ok(secret),
        Some(message) => {
            let name = message.full_name();
            Err(format!("{name} has a field with debug_redact: it may neither be nested nor have a oneof"))
        }
    }
}

/// Whether it has a oneof that is not merely how an `optional` field is described.
fn has_oneof(message: &MessageDescriptor) -> bool {
    message.oneofs().any(|oneof| !oneof.is_synthetic())
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let option = field.options().get_field_by_name("debug_redact").as_deref().and_then(Value::as_bool);
    option.unwrap_or_default()
}

/// By package: a `Debug` for each message that hides its secret fields, and, for the tests, how to try it.
fn debugs(messages: &[MessageDescriptor]) -> Result<BTreeMap<String, String>, std::fmt::Error> {
    let mut texts: BTreeMap<String, (String, String)> = BTreeMap::new();
    for message in messages {
        let (debugs, prints) = texts.entry(message.package_name().to_owned()).or_default();
        let (name, full) = (message.name(), message.full_name());
        writeln!(debugs, "impl ::core::fmt::Debug for {name} {{")?;
        writeln!(debugs, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(debugs, "        f.debug_struct({name:?})")?;
        for field in message.fields() {
            let name = field.name();
            match is_secret(&field) {
                true => writeln!(debugs, "            .field({name:?}, &crate::Redacted::of(&self.r#{name}))")?,
                false => writeln!(debugs, "            .field({name:?}, &self.r#{name})")?,
            }
        }
        writeln!(debugs, "            .finish()\n    }}\n}}")?;
        let decoded = format!("<{name} as ::prost::Message>::decode(bytes)");
        writeln!(prints, "    ({full:?}, |bytes| {decoded}.map(|message| format!(\"{{message:?}}\"))),")?;
    }
    let whole = |(debugs, prints): (String, String)| {
        let kind = "&[(&str, fn(&[u8]) -> Result<String, ::prost::DecodeError>)]";
        format!("{debugs}\n#[cfg(test)]\npub(crate) const PRINTS: {kind} = &[\n{prints}];\n")
    };
    Ok(texts.into_iter().map(|(package, texts)| (package, whole(texts))).collect())
}
