//! Selectors of labels as Kubernetes writes them into URLs: `worker_type=general,zone in (a, b)`.

use kube::core::{Expression, Selector};

/// Reads one. The [grammar](https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api) is of
/// requirements with commas between them, all of which hold.
pub fn parse(text: &str) -> Result<Selector, String> {
    let mut all = Vec::new();
    for requirement in requirements(text)? {
        all.push(expression(requirement)?);
    }
    Ok(all.into_iter().collect())
}

/// The parts between commas that are in no parentheses.
fn requirements(text: &str) -> Result<Vec<&str>, String> {
    let wrong = || format!("`{text}` is no selector of labels: its parentheses do not match");
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match (byte, inside) {
            (b'(', false) => inside = true,
            (b')', true) => inside = false,
            (b'(', true) | (b')', false) => return Err(wrong()),
            (b',', false) => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(wrong());
    }
    parts.push(&text[begin..]);
    if parts.len() == 1 && parts[0].trim().is_empty() {
        parts.clear();
    }
    Ok(parts)
}

fn expression(text: &str) -> Result<Expression, String> {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(word(key, text)?));
    }
    if let Some((head, set)) = text.split_once('(') {
        let values = set.strip_suffix(')').ok_or_else(|| unknown(text))?;
        let values: Result<_, _> = values.split(',').map(|value| value_of(value, text)).collect();
        let mut head = head.split_whitespace();
        return match (head.next(), head.next(), head.next()) {
            (Some(key), Some("in"), None) => Ok(Expression::In(word(key, text)?, values?)),
            (Some(key), Some("notin"), None) => Ok(Expression::NotIn(word(key, text)?, values?)),
            _ => Err(unknown(text)),
        };
    }
    for (sign, different) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(sign) {
            let (key, value) = (word(key, text)?, value_of(value, text)?);
            return Ok(match different {
                true => Expression::NotEqual(key, value),
                false => Expression::Equal(key, value),
            });
        }
    }
    Ok(Expression::Exists(word(text, text)?))
}

/// A key: `name` or `domain/name`.
fn word(key: &str, of: &str) -> Result<String, String> {
    let key = key.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    match !key.is_empty() && key.chars().all(good) {
        true => Ok(key.to_owned()),
        false => Err(unknown(of)),
    }
}

/// A value, which may be empty.
fn value_of(value: &str, of: &str) -> Result<String, String> {
    let value = value.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match value.chars().all(good) {
        true => Ok(value.to_owned()),
        false => Err(unknown(of)),
    }
}

fn unknown(text: &str) -> String {
    format!(
        "`{text}` is no selector of labels: say key=value, key!=value, key in (a,b), key notin (a,b), key or !key"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    #[test]
    fn selectors_choose_as_kubernetes_does() {
        let general: BTreeMap<String, String> =
            [("worker_type".to_owned(), "general".to_owned())].into();
        for (text, chosen) in [
            ("", true),
            ("worker_type=general", true),
            ("worker_type == general", true),
            ("worker_type=deployment", false),
            ("worker_type!=deployment", true),
            ("worker_type!=general", false),
            ("worker_type in (deployment, general)", true),
            ("worker_type in (deployment)", false),
            ("worker_type notin (general)", false),
            ("worker_type notin (deployment),worker_type", true),
            ("worker_type", true),
            ("!worker_type", false),
            ("zone", false),
            ("!zone", true),
            ("zone!=a", true),
            ("worker_type=general,zone=a", false),
            ("worker_type=", false),
        ] {
            let selector = parse(text).expect(text);
            assert_eq!(selector.matches(&general), chosen, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_said() {
        for text in [
            "=a",
            ",",
            "a=b,",
            "a in b",
            "a in (b",
            "a) in (b",
            "a over (b)",
            "a=b=c",
            "a in ((b))",
            "a b",
            "a=%",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("is no selector of labels"), "{text}: {error}");
        }
    }
}
