//! The statements of a crate, read out of its sources, so that none can be forgotten.
//!
//! sqlx runs a `&'static str`, or what somebody wrapped in `AssertSqlSafe`. So a statement stands in the sources, as a
//! literal or as what `concat!` and our own macros make of literals, wherever it goes from there: whatever begins like a
//! statement is one. What can be read neither way fails the collection with its place.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, ExprCall, ExprMethodCall, ImplItemFn, ItemFn, ItemMacro, ItemMod, Lit, Macro, Token,
    parse::Parser,
    punctuated::Punctuated,
    visit::{self, Visit},
};

use crate::Backend;

/// How a statement over tables begins.
const VERBS: [&str; 5] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
/// Files whose texts ask a database about itself, set it up, or begin and end transactions: no rows of the product.
const ABOUT_THE_DATABASE: [&str; 4] =
    ["store/src/examine.rs", "store/src/probe.rs", "store/src/service_role.rs", "store/src/writer.rs"];
/// The one text that is made at run time, of our own words and an id: it sets the scope of a transaction.
const MADE_AT_RUN_TIME: &str = "store/src/db.rs";

/// One statement, as it stands in the sources.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// `crate/src/file.rs:line`.
    pub(crate) place: String,
    /// The text, without the layout of the sources.
    pub(crate) text: String,
    /// The database that it is for, when it is for one of them.
    only: Option<Backend>,
}

impl Statement {
    pub(crate) fn is_for(&self, backend: Backend) -> bool {
        self.only.is_none_or(|only| only == backend)
    }

    /// One that stands in no source of a crate.
    pub(crate) fn of_function(name: &str, text: &str) -> Self {
        Self { place: format!("function {name}"), text: squeezed(text), only: Some(Backend::Postgres) }
    }
}

/// Every statement of these crates, each named by its folder.
///
/// # Panics
/// With the places of all that cannot be read.
pub(crate) fn statements(crates: &[&str]) -> Vec<Statement> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of the crates");
    let mut paths = Vec::new();
    for name in crates {
        sources(&root.join(name).join("src"), &mut paths);
    }
    let files: Vec<(String, syn::File)> = paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, file)
        })
        .filter(|(name, _)| !ABOUT_THE_DATABASE.contains(&name.as_str()))
        .collect();
    let (found, unread) = read(&files);
    assert!(unread.is_empty(), "statements that cannot be read from the sources:\n  {}", unread.join("\n  "));
    found
}

/// The statements of these files, and the places of what cannot be read.
fn read(files: &[(String, syn::File)]) -> (Vec<Statement>, Vec<String>) {
    let macros = Macros::of(files);
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for (name, file) in files {
        let mut reader = Reader { file: name, macros: &macros, only: None, found: &mut found, unread: &mut unread };
        reader.visit_file(file);
    }
    (found, unread)
}

/// The sources below a folder, without tests.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("tests") {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            into.push(path);
        }
    }
}

/// What our own macros make, by name: for each arm its pattern and its body.
struct Macros(HashMap<String, Vec<(TokenStream, TokenStream)>>);

impl Macros {
    fn of(files: &[(String, syn::File)]) -> Self {
        let mut macros = Self(HashMap::new());
        files.iter().for_each(|(_, file)| macros.visit_file(file));
        macros
    }

    /// The text that an expression is, if it is one that is known before the program runs.
    fn text(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                Lit::Int(number) => Some(number.base10_digits().to_owned()),
                _ => None,
            },
            Expr::Paren(inner) => self.text(&inner.expr),
            Expr::Group(inner) => self.text(&inner.expr),
            Expr::Macro(call) => self.text_of_call(&call.mac),
            _ => None,
        }
    }

    fn text_of_call(&self, call: &Macro) -> Option<String> {
        let name = call.path.segments.last()?.ident.to_string();
        if name == "concat" {
            return arguments(&call.tokens)?.iter().map(|part| self.text(part)).collect();
        }
        let body = self.0.get(&name)?.iter().find_map(|(pattern, body)| expand(pattern, body, &call.tokens))?;
        self.text(&syn::parse2(body).ok()?)
    }
}

impl<'ast> Visit<'ast> for Macros {
    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        if let Some(name) = &item.ident {
            self.0.insert(name.to_string(), arms(item.mac.tokens.clone()));
        }
    }
}

/// The arms of `macro_rules!`.
fn arms(rules: TokenStream) -> Vec<(TokenStream, TokenStream)> {
    let groups = rules.into_iter().filter_map(|token| match token {
        TokenTree::Group(group) => Some(group.stream()),
        _ => None,
    });
    let groups: Vec<_> = groups.collect();
    groups.chunks_exact(2).map(|arm| (arm[0].clone(), arm[1].clone())).collect()
}

/// The body of an arm with what was given in the place of its variables, each of which is one token; nothing when the
/// arm is for something else.
fn expand(pattern: &TokenStream, body: &TokenStream, given: &TokenStream) -> Option<TokenStream> {
    let mut given = given.clone().into_iter();
    let mut pattern = pattern.clone().into_iter();
    let mut bound = HashMap::new();
    while let Some(wanted) = pattern.next() {
        let token = given.next()?;
        if wanted.to_string() == "$" {
            bound.insert(pattern.next()?.to_string(), token);
            // A colon, and what kind of token it is.
            pattern.next()?;
            pattern.next()?;
        } else if wanted.to_string() != token.to_string() {
            return None;
        }
    }
    given.next().is_none().then(|| substituted(body, &bound))
}

fn substituted(body: &TokenStream, bound: &HashMap<String, TokenTree>) -> TokenStream {
    let mut made = TokenStream::new();
    let mut tokens = body.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        let value = tokens.peek().and_then(|next| bound.get(&next.to_string())).filter(|_| token.to_string() == "$");
        let token = match (value.cloned(), token) {
            (Some(value), _) => {
                tokens.next();
                value
            }
            (None, TokenTree::Group(group)) => {
                Group::new(group.delimiter(), substituted(&group.stream(), bound)).into()
            }
            (None, token) => token,
        };
        made.extend([token]);
    }
    made
}

fn arguments(tokens: &TokenStream) -> Option<Punctuated<Expr, Token![,]>> {
    Punctuated::parse_terminated.parse2(tokens.clone()).ok()
}

/// Whether a text begins like a statement.
fn is_statement(text: &str) -> bool {
    let text = text.trim_start().trim_start_matches('(');
    VERBS.iter().any(|verb| text.starts_with(verb))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Reader<'a> {
    file: &'a str,
    macros: &'a Macros,
    only: Option<Backend>,
    found: &'a mut Vec<Statement>,
    unread: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn place(&self, at: Span) -> String {
        format!("{}:{}", self.file, at.start().line)
    }

    fn take(&mut self, text: &str, at: Span) {
        if is_statement(text) {
            let statement = Statement { place: self.place(at), text: squeezed(text), only: self.only };
            self.found.push(statement);
        }
    }

    /// What is neither an expression nor a list of them may hold no statement.
    fn look_through(&mut self, tokens: &TokenStream) {
        for token in tokens.clone() {
            match token {
                TokenTree::Group(group) => self.look_through(&group.stream()),
                TokenTree::Literal(literal) => {
                    let at = literal.span();
                    if let Lit::Str(text) = Lit::new(literal)
                        && is_statement(&text.value())
                    {
                        self.unread.push(self.place(at));
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        self.take(&literal.value(), literal.span());
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let Some((sqlite, postgres)) = call.args.first().zip(call.args.get(1)).filter(|_| call.method == "pick") else {
            return visit::visit_expr_method_call(self, call);
        };
        for (backend, arm) in [(Backend::Sqlite, sqlite), (Backend::Postgres, postgres)] {
            match self.macros.text(arm) {
                Some(text) => {
                    self.only = Some(backend);
                    self.take(&text, call.method.span());
                    self.only = None;
                }
                None => self.unread.push(self.place(call.method.span())),
            }
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = &*call.func
            && let Some(name) = function.path.segments.last()
            && name.ident == "AssertSqlSafe"
            && self.file != MADE_AT_RUN_TIME
        {
            self.unread.push(self.place(name.ident.span()));
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        let Some(name) = call.path.segments.last().map(|segment| &segment.ident) else { return };
        if name == "macro_rules" {
            // Read where it is called.
            return;
        }
        if let Some(text) = self.macros.text_of_call(call) {
            return self.take(&text, name.span());
        }
        for (_, body) in self.macros.0.get(&name.to_string()).into_iter().flatten() {
            self.look_through(body);
        }
        match arguments(&call.tokens) {
            Some(arguments) => arguments.iter().for_each(|argument| self.visit_expr(argument)),
            None => self.look_through(&call.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Vec<Statement>, Vec<String>) {
        read(&[("a.rs".to_owned(), syn::parse_file(text).expect("is Rust"))])
    }

    #[test]
    fn statements_are_found_wherever_they_go() {
        let (found, unread) = read_text(
            r#"
            const KEPT: &str = "DELETE FROM kept";
            macro_rules! part { ($column:literal) => { concat!("SELECT ", $column, "
                FROM parts") }; }
            macro_rules! of { (one) => { "UPDATE one SET a = 1" }; (two) => { "UPDATE two SET a = 1" }; }
            async fn run(conn: &mut Conn) -> Result<()> {
                exec!(conn, "INSERT INTO given VALUES ($1)", "SELECTED")?;
                let sql = conn.pick("SELECT 1", concat!(part!("id"), " WHERE ", "TRUE"));
                for sql in [sql, of!(two)] { all!(conn, sql)?; }
                helper(conn, Log { oldest: "WITH a AS (SELECT 1) SELECT * FROM a" }).await
            }
            #[cfg(test)]
            mod tests { const NONE: &str = "DELETE FROM none"; }
            "#,
        );
        let found: Vec<_> = found.iter().map(|one| (one.place.as_str(), one.text.as_str(), one.only)).collect();
        let expected = [
            ("a.rs:2", "DELETE FROM kept", None),
            ("a.rs:7", "INSERT INTO given VALUES ($1)", None),
            ("a.rs:8", "SELECT 1", Some(Backend::Sqlite)),
            ("a.rs:8", "SELECT id FROM parts WHERE TRUE", Some(Backend::Postgres)),
            ("a.rs:9", "UPDATE two SET a = 1", None),
            ("a.rs:10", "WITH a AS (SELECT 1) SELECT * FROM a", None),
        ];
        assert_eq!(found, expected);
        assert_eq!(unread, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let check = |text: &str| assert_eq!(read_text(text).1, ["a.rs:2"], "{text}");
        check("fn f() {\n AssertSqlSafe(made()) }");
        check("fn f(conn: &Conn, text: &'static str) {\n conn.pick(text, \"SELECT 1\") }");
        check("fn f() {\n strange!(a => \"SELECT 1\") }");
        check("macro_rules! hidden { ($a:ident) => {\n exec!($a, \"SELECT 1\") }; }\nfn f() { hidden!(conn) }");
    }
}
