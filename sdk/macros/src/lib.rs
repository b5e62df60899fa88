//! The attribute `#[eve_sdk::skill]`, re-exported by `eve-sdk`, where it is documented for authors.
//!
//! It needs to know nothing of the function but its name, and so does without a parser for Rust:
//! the function is passed on as it was written, and what is generated beside it hands the function
//! to `eve_sdk::__export`. A wrong signature is the compiler's to report, at the generated constant.
#![deny(missing_docs)]

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// Makes a function of the signature `fn(Request) -> Result<Outcome, Failure>` what the component
/// exports. Exactly one function of a crate carries it.
#[proc_macro_attribute]
pub fn skill(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return error("`#[eve_sdk::skill]` takes no arguments");
    }
    let name = match function_name(item.clone()) {
        Ok(name) => name,
        Err(reason) => return error(reason),
    };
    let generated = format!(
        "const _: fn(::eve_sdk::Request) -> \
             ::core::result::Result<::eve_sdk::Outcome, ::eve_sdk::Failure> = {name};
         #[cfg(target_arch = \"wasm32\")]
         const _: () = {{
             struct Skill;
             impl ::eve_sdk::__export::Guest for Skill {{
                 fn run() -> ::core::result::Result<
                     ::eve_sdk::__export::Outcome,
                     ::eve_sdk::__export::Failure,
                 > {{
                     ::eve_sdk::__export::run({name})
                 }}
             }}
             ::eve_sdk::__export::export_skill!(Skill with_types_in ::eve_sdk::bindings);
         }};"
    );
    let Ok(generated) = generated.parse::<TokenStream>() else {
        return error("`#[eve_sdk::skill]` cannot be put on a function of this name");
    };
    item.into_iter().chain(generated).collect()
}

/// The migrations of a folder beside `Cargo.toml`, as an array of `eve_sdk::db::Migration`: its files
/// `NNNN_name.sql`, in the order of their numbers, embedded.
#[proc_macro]
pub fn migrations(arguments: TokenStream) -> TokenStream {
    let folder = match arguments.into_iter().collect::<Vec<_>>()[..] {
        [TokenTree::Literal(ref literal)] => {
            let text = literal.to_string();
            match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
                Some(text) if !text.contains('\\') => text.to_owned(),
                _ => return error("`migrations!` takes the name of a folder, in plain quotes"),
            }
        }
        _ => return error("`migrations!` takes the name of a folder: migrations!(\"migrations\")"),
    };
    match embedded(&folder) {
        Ok(code) => code.parse().unwrap_or_else(|_| error("a migration has an impossible name")),
        Err(why) => error(&why),
    }
}

fn embedded(folder: &str) -> Result<String, String> {
    let root = std::env::var("CARGO_MANIFEST_DIR").map_err(|_| "cargo does not say where it is")?;
    let path = std::path::Path::new(&root).join(folder);
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if file.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let parsed = stem
            .split_once('_')
            .and_then(|(number, name)| Some((number.parse::<u32>().ok()?, name.to_owned())))
            .filter(|(number, name)| *number > 0 && !name.is_empty());
        let Some((number, name)) = parsed else {
            return Err(format!(
                "{}: migrations are named like 0001_what_it_does.sql",
                file.display()
            ));
        };
        found.push((number, name, file));
    }
    found.sort();
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("two migrations have the number {}", pair[0].0));
    }
    let mut code = String::from("[");
    for (number, name, file) in found {
        let file = file.to_str().ok_or("a migration's path is not UTF-8")?;
        // Read by the compiler, so that a change is noticed.
        code.push_str(&format!(
            "::eve_sdk::db::migration({number}, {name:?}, ::core::include_str!({file:?})),"
        ));
    }
    code.push(']');
    // A file that is added changes no file that cargo knows. What builds skills sets this variable to the
    // names of all, and cargo sees that it has changed.
    Ok(format!("{{ const _: Option<&str> = ::core::option_env!(\"EVE_MIGRATIONS\"); {code} }}"))
}

/// The name of the free function that the tokens declare.
fn function_name(item: TokenStream) -> Result<String, &'static str> {
    const NOT_A_FUNCTION: &str = "`#[eve_sdk::skill]` belongs on a function";
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = &token else {
            match &token {
                // Attributes, and the parentheses of `pub(crate)`.
                TokenTree::Punct(_) => continue,
                TokenTree::Group(group) if group.delimiter() != Delimiter::Brace => continue,
                _ => return Err(NOT_A_FUNCTION),
            }
        };
        match word.to_string().as_str() {
            "pub" => continue,
            "async" => return Err("a skill is not async: every call of the SDK just returns"),
            "const" | "unsafe" | "extern" => {
                return Err("a skill is a plain `fn`, not const, unsafe or extern");
            }
            "fn" => {
                return match tokens.next() {
                    Some(TokenTree::Ident(name)) => Ok(name.to_string()),
                    _ => Err(NOT_A_FUNCTION),
                };
            }
            _ => return Err(NOT_A_FUNCTION),
        }
    }
    Err(NOT_A_FUNCTION)
}

fn error(message: &str) -> TokenStream {
    format!("::core::compile_error!({message:?});").parse().unwrap_or_default()
}
