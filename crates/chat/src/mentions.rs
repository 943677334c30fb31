//! Whom a message calls as `@name`: each of them gets a task, so what is shown as data calls nobody.

use std::{collections::BTreeSet, ops::Range};

use mi_kernel::text;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Most agents that one message may name.
pub(super) const MAX_MENTIONS: usize = 10;

/// The names that a message calls, in lower case.
///
/// Messages are read as CommonMark. Code, links, HTML and quotes are what others said or what programs read: nobody in
/// them is called, nor behind a backslash. A quote ends with its line, as chat programs have it, whereas CommonMark
/// goes on with it until a blank one.
pub(super) fn called(body: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // Most messages call nobody and need no parser.
    if !body.contains('@') {
        return names;
    }
    let addresses = addresses(body);
    // How many elements are open that hold data, and how many quotes; and where the name called last ended.
    let (mut data, mut quotes, mut last) = (0_usize, 0_usize, None);
    for (event, range) in Parser::new_ext(body, Options::empty()).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::Link { .. } | Tag::Image { .. }) => data += 1,
            Event::End(TagEnd::CodeBlock | TagEnd::HtmlBlock | TagEnd::Link | TagEnd::Image) => data -= 1,
            Event::Start(Tag::BlockQuote(_)) => quotes += 1,
            Event::End(TagEnd::BlockQuote(_)) => quotes -= 1,
            Event::Text(_) if data == 0 && !(quotes > 0 && is_in_quoted_line(body, range.start)) => {
                for (offset, _) in body[range.clone()].match_indices('@') {
                    let at = range.start + offset;
                    if is_within(&addresses, at) || !may_begin(body, at, last) {
                        continue;
                    }
                    if let Some(name) = name_after(&body[at + 1..]) {
                        last = Some(at + 1 + name.len());
                        names.insert(name);
                    }
                }
            }
            _ => {}
        }
    }
    names
}

/// Whether the `@` at this place stands where a name can begin: not behind a backslash, and not within a word, an address
/// of mail or a path. The slash right behind another name lists both.
fn may_begin(body: &str, at: usize, last: Option<usize>) -> bool {
    let before = &body[..at];
    let backslashes = before.bytes().rev().take_while(|&byte| byte == b'\\').count();
    let is_joined = match before.chars().next_back() {
        Some('/') => last != Some(at - 1),
        Some(c) => is_of_word(c) || "@.-+%".contains(c),
        None => false,
    };
    backslashes % 2 == 0 && !is_joined
}

/// The name that this text, which follows an `@`, begins with; none when what stands there goes on as something else: a
/// longer word, a domain, a package or a path.
fn name_after(rest: &str) -> Option<String> {
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
    let after = &rest[end..];
    let goes_on = match after.chars().next() {
        Some('.') => after.trim_start_matches('.').starts_with(is_of_word),
        Some('/') => !after[1..].starts_with('@'),
        Some(c) => is_of_word(c) || c == '@',
        None => false,
    };
    if goes_on {
        return None;
    }
    // A dash behind a name is punctuation.
    text::agent_name("body", rest[..end].trim_end_matches('-')).ok()
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the line of this place begins with the mark of a quote, itself or as an item of a list.
fn is_in_quoted_line(body: &str, at: usize) -> bool {
    let line = &body[body[..at].rfind('\n').map_or(0, |end| end + 1)..at];
    let is_of_list = |c: char| c.is_whitespace() || c.is_ascii_digit() || "-*+.)".contains(c);
    line.trim_start_matches(is_of_list).starts_with('>')
}

/// What follows the schemes of addresses, up to the next blank, in order: the parser knows only those in angle brackets.
fn addresses(body: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in body.match_indices("://") {
        // An address within another is looked through once.
        if found.last().is_none_or(|address| address.end <= at) {
            let end = body[at..].find(char::is_whitespace).map_or(body.len(), |length| at + length);
            found.push(at..end);
        }
    }
    found
}

/// Whether one of these ranges, which are in order, has the place.
fn is_within(ranges: &[Range<usize>], at: usize) -> bool {
    let next = ranges.partition_point(|range| range.end <= at);
    ranges.get(next).is_some_and(|range| range.contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_called(cases: &[(&str, &[&str])]) {
        for (body, expected) in cases {
            assert_eq!(called(body).iter().map(String::as_str).collect::<Vec<_>>(), *expected, "{body:?}");
        }
    }

    #[test]
    fn a_name_is_called_by_whole_words() {
        assert_called(&[
            ("@analyst please look", &["analyst"]),
            ("hey @Analyst, and @bob-2: now", &["analyst", "bob-2"]),
            ("(@a) \"@b\" @c. @d? \n@e", &["a", "b", "c", "d", "e"]),
            ("@bob @BOB @bob", &["bob"]),
            ("@bob- or @bob--", &["bob"]),
            ("@bob's turn, then @eve’s", &["bob", "eve"]),
            ("ask @bob... or @name-with-dash", &["bob", "name-with-dash"]),
            ("mail to eve@bob, bob@bob.com or a.@bob", &[]),
            ("@bob_builder @bobé @bob@example", &[]),
            ("@ @- @-bob @@bob", &[]),
            ("é@bob", &[]),
            ("שלום @bob שלום", &["bob"]),
            ("@bob/@eve", &["bob", "eve"]),
            ("", &[]),
        ]);
        let long = format!("@{}", "a".repeat(41));
        assert_eq!(called(&long), BTreeSet::new());
    }

    #[test]
    fn packages_domains_paths_and_addresses_call_nobody() {
        assert_called(&[
            ("npm i @angular/core", &[]),
            ("see node_modules/@angular and @bob/", &[]),
            ("on @bob.com or @app.route", &[]),
            ("see https://medium.com/@bob/post-1, @eve", &["eve"]),
            ("at https://a.example/?to=@bob&http://b.example,@bob and @eve", &["eve"]),
            ("medium.com/@bob", &[]),
        ]);
    }

    #[test]
    fn what_markdown_shows_as_data_calls_nobody() {
        assert_called(&[
            ("run `npm i @angular` or ``a ` @bob``, @eve", &["eve"]),
            ("an open ` calls @bob", &["bob"]),
            ("```\n@bob\ndef f(): pass\n```\n@eve", &["eve"]),
            ("~~~python\n@bob\n~~~", &[]),
            ("```\n@bob, and the fence stays open", &[]),
            ("look:\n\n    @bob\n\n@eve", &["eve"]),
            ("- as in\n\n      @bob", &[]),
            ("look:\n    @bob", &["bob"]),
            ("\\@bob escaped", &[]),
            ("a backslash: \\\\@bob", &["bob"]),
            ("[@bob](https://a.example) ![@bob](b.png) <https://a.example/@bob> <bob@a.example>", &[]),
            ("[a @bob b][1]\n\n[1]: https://a.example/@bob", &[]),
            ("[@bob] and **@eve**", &["bob", "eve"]),
            ("# For @bob\n\n1. *@eve*", &["bob", "eve"]),
            ("<!-- @bob -->", &[]),
            ("<div>\n@bob\n</div>", &[]),
            ("see <b title='@bob'>@eve</b>", &["eve"]),
            ("&#64;bob", &[]),
        ]);
    }

    #[test]
    fn a_quote_calls_nobody_and_ends_with_its_line() {
        assert_called(&[
            ("> @bob said hi\n\nindeed", &[]),
            ("> > @bob\n> @bob\n\n@eve", &["eve"]),
            ("> @bob said hi\n@eve what > that?", &["eve"]),
            ("- > @bob\n- @eve", &["eve"]),
            ("1. > @bob", &[]),
            ("> ```\n> @bob\n> ```", &[]),
            ("5 > 4, @bob", &["bob"]),
        ]);
    }

    #[test]
    fn long_messages_are_read_in_time_that_grows_with_them() {
        let long = |part: &str| part.repeat((64 << 10) / part.len());
        for part in ["@", "@-", "(@_", "> @bob ", "[@](", "://@", "`@", "<@", "\\\\\\@bob", "*@_-"] {
            assert_eq!(called(&long(part)), BTreeSet::new(), "{part:?}");
        }
        assert_eq!(called(&long("@bob ")), BTreeSet::from(["bob".to_owned()]));
    }
}
