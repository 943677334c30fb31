//! What the platform says, in the words of the command line: its errors name the fields of the API, and offices.

use clap::Command;

use crate::failure::Failure;

/// Flags that are called otherwise than their field of the API.
const FLAGS: [(&str, &str); 7] = [
    ("assigned_agent", "agent"),
    ("max_attempts", "attempts"),
    ("model_tier", "model"),
    ("office_id", "colony"),
    ("parent_id", "parent"),
    ("required_tools", "tool"),
    ("to_agent", "to"),
];
/// Nouns that are called otherwise.
const NOUNS: [(&str, &str); 4] =
    [("office", "colony"), ("offices", "colonies"), ("Office", "Colony"), ("Offices", "Colonies")];

/// The failure in the words of the command that failed, if it is the platform's.
pub(crate) fn translated(failure: Failure, command: &Command) -> Failure {
    match failure {
        Failure::Told { message, hint, code: code @ Some(_), exit_code } => {
            let flags: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
            let hint = hint.map(|hint| translate(&hint, &flags));
            Failure::Told { message: translate(&message, &flags), hint, code, exit_code }
        }
        other => other,
    }
}

/// Replaces each word that the command line has another one for. What is quoted is what somebody wrote, and stays.
pub(crate) fn translate(text: &str, flags: &[&str]) -> String {
    let mut translated = String::with_capacity(text.len());
    let (mut is_quoted, mut is_escaped) = (false, false);
    let pieces = text.split_inclusive(|c: char| {
        let is_mark = c == '"' && !is_escaped;
        is_quoted ^= is_mark;
        is_escaped = c == '\\' && !is_escaped;
        is_mark || (!is_quoted && c.is_whitespace())
    });
    // From after a quotation mark that opens to the one that closes.
    let mut is_inside = false;
    for piece in pieces {
        if is_inside {
            translated.push_str(piece);
        } else {
            push(&mut translated, piece, flags);
        }
        is_inside ^= piece.ends_with('"');
    }
    translated
}

/// Adds a word with what follows it.
fn push(text: &mut String, piece: &str, flags: &[&str]) {
    let end = piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len());
    let (word, rest) = piece.split_at(end);
    // Part of a path, a name or an address, as in office.yaml.
    let is_part = rest.starts_with(['-', '/', '@', '='])
        || rest.strip_prefix(['.', ':']).is_some_and(|rest| rest.starts_with(|c: char| !c.is_whitespace()));
    if is_part {
        text.push_str(piece);
    } else if let Some((_, noun)) = NOUNS.iter().find(|(office, _)| *office == word) {
        let is_article = |before: &str| !before.ends_with(|c: char| c.is_alphanumeric());
        if ["an ", "An "].iter().any(|an| text.strip_suffix(an).is_some_and(is_article)) {
            text.truncate(text.len() - "n ".len());
            text.push(' ');
        }
        text.push_str(noun);
        text.push_str(rest);
    } else if let Some(flag) = flag(word, flags) {
        text.push_str("--");
        text.push_str(&flag);
        text.push_str(rest);
    } else {
        text.push_str(piece);
    }
}

/// The flag for a field of the API, if the command has it. Fields of one word are words of English as well, but for
/// `force`, which is said of the flag only.
fn flag(word: &str, flags: &[&str]) -> Option<String> {
    if !word.contains('_') && word != "force" {
        return None;
    }
    let same = word.replace('_', "-");
    let other = FLAGS.iter().find(|(field, _)| *field == word).map(|(_, flag)| (*flag).to_owned());
    [Some(same), other].into_iter().flatten().find(|flag| flags.contains(&flag.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_flags_of_the_command_that_failed() {
        for (flags, said, told) in [
            (
                &["if-revision", "force"][..],
                "\"a office\" is there already, at revision 1; send that as if_revision if it is what you read, or force",
                "\"a office\" is there already, at revision 1; send that as --if-revision if it is what you read, or --force",
            ),
            (&["model"], "model_tier \"model_tier\" is unknown", "--model \"model_tier\" is unknown"),
            (&["attempts"], "max_attempts must be between 1 and 100", "--attempts must be between 1 and 100"),
            (&["max-attempts"], "max_attempts must be between 1 and 100", "--max-attempts must be between 1 and 100"),
            // A command without the flag means something else by it: a key of a file, a setting.
            (&["file"], "model_tier is unknown; by force", "model_tier is unknown; by force"),
            (&["title"], "title must not be blank", "title must not be blank"),
        ] {
            assert_eq!(translate(said, flags), told);
        }
    }

    #[test]
    fn offices_are_colonies_outside_of_quotes() {
        for (said, told) in [
            ("office \"my office\" not found", "colony \"my office\" not found"),
            ("the office's files; an office may send", "the colony's files; a colony may send"),
            ("An office of \"an \\\" office\", offices.", "A colony of \"an \\\" office\", colonies."),
            ("see office.yaml, office-1, office/a and office", "see office.yaml, office-1, office/a and colony"),
            ("other than office", "other than colony"),
            ("\"office", "\"office"),
            ("", ""),
        ] {
            assert_eq!(translate(said, &[]), told);
        }
    }

    #[test]
    fn only_what_the_platform_said_is_translated() {
        let command = Command::new("x").arg(clap::Arg::new("force").long("force"));
        let own = translated(Failure::new("office force").hint("office"), &command);
        assert_eq!(own.to_string(), "error: office force\nhint: office\n");
        let platform = translated(Failure::not_found("office force").hint("office"), &command);
        assert_eq!(platform.to_string(), "error: colony --force\nhint: colony\n");
    }
}
