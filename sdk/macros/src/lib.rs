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
