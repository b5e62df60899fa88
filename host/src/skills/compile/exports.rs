//! What a skill must export: `eve:skill/handler` with a function `run` of the contract's type.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, types};

use super::REASON;
use crate::runtime::capabilities::shown;

/// `handler.run` as the contract has it, in [`notation`].
const RUN: &str = "func() -> result<variant{completed(record{summary:string,data:option<string>,\
                   tokens-used:option<u64>,cost:option<f64>}),waiting(record{deadline:option<u64>\
                   })},variant{retryable(string),permanent(string)}>";

/// Exports that are named to an author whose component has others than it should.
const NAMED: usize = 5;

/// Whether a component exports what a skill does; if not, why not, for its author.
pub(super) fn check(engine: &Engine, component: &Component) -> Result<(), String> {
    let ty = component.component_type();
    let (mut others, mut count) = (Vec::new(), 0_usize);
    for (name, item) in ty.exports(engine) {
        let Some(version) = name.strip_prefix("eve:skill/handler@") else {
            count += 1;
            if others.len() < NAMED {
                others.push(shown(name));
            }
            continue;
        };
        if !version.starts_with("0.1.") {
            return Err(format!(
                "the component exports `{}`; this host runs version 0.1 of the contract",
                shown(name)
            ));
        }
        let ComponentItem::ComponentInstance(handler) = item.ty else {
            return Err("the component exports `eve:skill/handler`, but not as an interface".into());
        };
        return match handler.get_export(engine, "run").map(|item| item.ty) {
            Some(ComponentItem::ComponentFunc(run)) => {
                let found = signature(&run);
                if found == RUN {
                    Ok(())
                } else {
                    Err(format!("the component's `run` is `{found}`; it must be `{RUN}`"))
                }
            }
            _ => Err("the component's `eve:skill/handler` has no function `run`".into()),
        };
    }
    let others = others.join(", ");
    let instead = match count {
        0 => "nothing".to_owned(),
        1..=NAMED => format!("only {others}"),
        more => format!("only {others} and {} more", more - NAMED),
    };
    Err(format!(
        "the component exports {instead}; a skill exports `eve:skill/handler@0.1.0`: \
         was it built against `eve-sdk`?"
    ))
}

fn signature(function: &types::ComponentFunc) -> String {
    let mut text = String::from("func(");
    for (index, (name, ty)) in function.params().enumerate() {
        if is_long(&text) {
            break;
        }
        if index > 0 {
            text.push(',');
        }
        text.push_str(name);
        text.push(':');
        notation(&ty, &mut text);
    }
    text.push(')');
    for ty in function.results() {
        text.push_str(" -> ");
        notation(&ty, &mut text);
    }
    text
}

/// Whether a type is longer already than any of ours. Types share parts, so a small file can describe an
/// endless one.
fn is_long(text: &str) -> bool {
    text.len() > REASON / 2
}

/// Writes a type down without names of its own, as far as it [is not too long](is_long).
fn notation(ty: &Type, text: &mut String) {
    if is_long(text) {
        return;
    }
    let mut list = |open: &str, parts: &mut dyn Iterator<Item = (String, Option<Type>)>| {
        text.push_str(open);
        for (index, (part, ty)) in parts.enumerate() {
            if is_long(text) {
                break;
            }
            if index > 0 {
                text.push(',');
            }
            text.push_str(&part);
            if let Some(ty) = ty {
                let record = open.starts_with("record");
                text.push_str(if record { ":" } else { "(" });
                notation(&ty, text);
                text.push_str(if record { "" } else { ")" });
            }
        }
        text.push('}');
    };
    match ty {
        Type::Record(record) => list(
            "record{",
            &mut record.fields().map(|field| (field.name.to_owned(), Some(field.ty))),
        ),
        Type::Variant(variant) => {
            list("variant{", &mut variant.cases().map(|case| (case.name.to_owned(), case.ty)));
        }
        Type::Option(option) => {
            text.push_str("option<");
            notation(&option.ty(), text);
            text.push('>');
        }
        Type::Result(result) => {
            text.push_str("result<");
            for (index, part) in [result.ok(), result.err()].into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                match part {
                    Some(ty) => notation(&ty, text),
                    None => text.push('_'),
                }
            }
            text.push('>');
        }
        // Nothing of ours has any of the others, so their names will do.
        Type::Bool => text.push_str("bool"),
        Type::S8 => text.push_str("s8"),
        Type::U8 => text.push_str("u8"),
        Type::S16 => text.push_str("s16"),
        Type::U16 => text.push_str("u16"),
        Type::S32 => text.push_str("s32"),
        Type::U32 => text.push_str("u32"),
        Type::S64 => text.push_str("s64"),
        Type::U64 => text.push_str("u64"),
        Type::Float32 => text.push_str("f32"),
        Type::Float64 => text.push_str("f64"),
        Type::Char => text.push_str("char"),
        Type::String => text.push_str("string"),
        Type::List(_) => text.push_str("list"),
        Type::Tuple(_) => text.push_str("tuple"),
        Type::Enum(_) => text.push_str("enum"),
        Type::Flags(_) => text.push_str("flags"),
        Type::Own(_) => text.push_str("own"),
        Type::Borrow(_) => text.push_str("borrow"),
        _ => text.push('?'),
    }
}
