//! Texts that a flag gives as such, or as the name of a file that holds them.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read},
};

use crate::failure::Failure;

/// The text itself, or what `@FILE` holds, `@-` being standard input. `@@` begins a text with an `@`.
pub(crate) fn text_or_file(given: &str) -> Result<String, Failure> {
    let Some(path) = given.strip_prefix('@') else {
        return Ok(given.to_owned());
    };
    if path.starts_with('@') {
        return Ok(path.to_owned());
    }
    let read = match path {
        "-" => return standard_input(),
        path => fs::read_to_string(path),
    };
    read.map_err(|error| {
        Failure::io(format!("{path} cannot be read"), &error)
            .hint(format!("@ names a file to read; @@ begins a text with an @, as in @{given}"))
    })
}

/// All of standard input.
pub(crate) fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Appends all of standard input, or the line that is typed at this prompt.
pub(crate) fn ask_for(prompt: &str, text: &mut String) -> Result<(), Failure> {
    let mut stdin = io::stdin().lock();
    let read = if stdin.is_terminal() {
        eprint!("{prompt}: ");
        stdin.read_line(text)
    } else {
        stdin.read_to_string(text)
    };
    read.map(drop).map_err(unreadable)
}

fn unreadable(error: io::Error) -> Failure {
    Failure::io("standard input cannot be read", &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_come_as_text_or_from_a_file() {
        assert_eq!(text_or_file("Be brief.").expect("text"), "Be brief.");
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("prompt.txt");
        fs::write(&path, "Be\nthorough.").expect("written");
        assert_eq!(text_or_file(&format!("@{}", path.display())).expect("file"), "Be\nthorough.");
    }

    #[test]
    fn a_second_at_sign_makes_the_first_one_text() {
        assert_eq!(text_or_file("@@analyst, go on").expect("text"), "@analyst, go on");
        assert_eq!(text_or_file("@@@").expect("text"), "@@");
        let told = text_or_file("@no/such file").expect_err("missing").to_string();
        let hint = "hint: @ names a file to read; @@ begins a text with an @, as in @@no/such file\n";
        assert!(told.starts_with("error: no/such file cannot be read: ") && told.ends_with(hint), "{told}");
    }
}
