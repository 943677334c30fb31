//! What the proto files say of what they declare.

use std::{collections::HashMap, sync::LazyLock};

use mi_proto::rules::POOL;
use prost_reflect::FileDescriptor;

static COMMENTS: LazyLock<HashMap<(String, Vec<i32>), String>> = LazyLock::new(|| {
    let files = POOL.files().filter(|file| file.package_name() == "mi.v1");
    files
        .flat_map(|file| {
            let name = file.name().to_owned();
            let info = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
            info.location.into_iter().filter_map(move |location| {
                let text = location.leading_comments.as_deref().map(text).filter(|text| !text.is_empty())?;
                Some(((name.clone(), location.path), text))
            })
        })
        .collect()
});

/// A comment as one text: its lines are broken where the file is narrow, its paragraphs where it means it.
fn text(comment: &str) -> String {
    let mut text = String::with_capacity(comment.len());
    for line in comment.lines().map(str::trim) {
        match line {
            "" => text.push_str("\n\n"),
            line => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push(' ');
                }
                text.push_str(line);
            }
        }
    }
    text.trim().to_owned()
}

/// What stands before something in its file; none: nothing does, or the file is not ours.
pub(crate) fn comment(file: &FileDescriptor, path: &[i32]) -> Option<&'static str> {
    COMMENTS.get(&(file.name().to_owned(), path.to_vec())).map(String::as_str)
}

/// The first sentence, without its full stop.
pub(crate) fn summary(text: &str) -> &str {
    let end = text.match_indices(". ").map(|(at, _)| at).find(|at| {
        // Not after an abbreviation such as `e.g.`.
        !text[..*at].ends_with("e.g") && !text[..*at].ends_with("i.e")
    });
    let line = text.find('\n').unwrap_or(text.len());
    text[..end.map_or(line, |end| end.min(line))].trim_end_matches(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_public_says_what_it_is() {
        let service = POOL.get_service_by_name("mi.v1.OfficeService").expect("there");
        let about = comment(&service.parent_file(), service.path()).expect("said");
        assert!(about.starts_with("Creates, inspects, configures and deletes offices.\n\nAn office of"), "{about}");
        let message = POOL.get_message_by_name("mi.v1.UploadHeader").expect("there");
        let field = message.get_field_by_name("force").expect("there");
        assert_eq!(comment(&message.parent_file(), field.path()), Some("Replace whatever is there."));
    }

    #[test]
    fn a_summary_is_the_first_sentence() {
        for (text, first) in [
            ("Lists roles.", "Lists roles"),
            ("One. Two.", "One"),
            ("A name, e.g. a UUID; short. More.", "A name, e.g. a UUID; short"),
            ("One\n\nTwo. Three", "One"),
        ] {
            assert_eq!(summary(text), first);
        }
    }
}
