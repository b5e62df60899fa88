//! Small files that want to be large, and large ones: in memory, in time, in number.

use super::encode::{body, boundaries, component, core, functions, list, name, number, section};
use super::*;

/// Loops in loops, in whose middle many variables are read: every loop may change each of them, and the
/// compiler keeps note of all. Sizes are multiplied.
fn loops(variables: u64, depth: usize) -> Vec<u8> {
    let reads: Vec<u8> =
        (0..variables).flat_map(|local| [&[0x20], &number(local)[..], &[0x1a]].concat()).collect();
    let code = [b"\x03\x40".repeat(depth), reads, b"\x0b".repeat(depth)].concat();
    functions(&[body(variables, &code)])
}

#[tokio::test]
async fn what_takes_too_much_time_is_stopped() {
    // 26 KB, and about a minute.
    let allowance = Allowance { cpu_seconds: 1, ..Allowance::default() };
    let said = rejection_within(&loops(5_000, 2_000), allowance).await;
    assert!(said.contains("more than 1 s of CPU time"), "{said}");
    // An honest one, only more of it.
    let step = b"\x20\0\x42\x05\x7c\x42\x07\x7e\x21\0".repeat(30);
    let said = rejection_within(&functions(&vec![body(1, &step); 20_000]), allowance).await;
    assert!(said.contains("more than 1 s of CPU time"), "{said}");
}

#[tokio::test]
async fn what_takes_too_much_memory_is_stopped() {
    for (variables, depth) in [(20_000, 20_000), (50_000, 100_000)] {
        let said = rejection(&loops(variables, depth)).await;
        assert!(said.contains("more than 1 GiB of memory"), "{said}");
    }
}

/// Component in component, this often.
fn nested(times: usize) -> Vec<u8> {
    let empty = component(&[]);
    let (mut heads, mut size) = (Vec::new(), empty.len());
    for _ in 0..times {
        let head = [&[4][..], &number(size as u64)].concat();
        size += head.len() + empty.len();
        heads.push(head);
    }
    let outer = heads.iter().rev().flat_map(|head| [&empty[..], head].concat());
    outer.chain(empty.clone()).collect()
}

/// A component that instantiates another so many times, which does so again, and so on down.
fn multiplying(levels: usize, times: usize) -> Vec<u8> {
    let instances = |times: usize| list(&vec![vec![0, 0, 0]; times]);
    let mut inner = component(&[core(&[]), section(2, &instances(1))]);
    for _ in 0..levels {
        inner = component(&[section(4, &inner), section(5, &instances(times))]);
    }
    inner
}

/// A component's types, of which there are so many; a type is two of the one before it.
fn doubled_types(times: u8) -> Vec<u8> {
    let two = |part: u8| vec![0x6f, 2, part, part];
    let types: Vec<_> = [two(0x7d)].into_iter().chain((0..times).map(two)).collect();
    component(&[section(7, &list(&types))])
}

/// A component whose core module consists of this section.
fn module_with(id: u8, entries: &[Vec<u8>]) -> Vec<u8> {
    component(&[core(&[section(id, &list(entries))])])
}

#[tokio::test]
async fn what_is_too_many_or_too_large_is_said() {
    let huge = number(u32::MAX.into());
    let bytes = |count: usize| {
        component(&[section(7, &[number(count as u64), vec![0x7d; count]].concat())])
    };
    let lying_size = [component(&[]), vec![7], huge.clone(), vec![1, 0x7d]].concat();
    let many_sections = component(&vec![section(4, &component(&[])); 100_000]);
    let memory = [vec![0], number(u32::MAX.into())].concat();
    for (what, wasm, reason) in [
        ("a million types and one", bytes(1_000_001), "types count exceeds"),
        (
            "types in many sections",
            component(&vec![section(7, b"\x01\x7d"); 1_000_001]),
            "types count",
        ),
        (
            "a count that is a lie",
            component(&[section(7, &[&huge[..], b"\x7d"].concat())]),
            "types count",
        ),
        ("a size that is a lie", lying_size, "unexpected end"),
        ("a hundred thousand components", many_sections, "components count exceeds"),
        (
            "a hundred thousand modules",
            component(&vec![core(&[]); 100_000]),
            "modules count exceeds",
        ),
        ("locals", functions(&[body(u32::MAX.into(), &[])]), "too many locals"),
        ("a memory", module_with(5, &[memory]), "memory size must be at most"),
        ("types of types", doubled_types(60), "type size exceeds"),
        ("instances of instances", multiplying(28, 2), "instances of its parts"),
        ("a thousand of a thousand", multiplying(3, 999), "instances of its parts"),
    ] {
        let said = rejection(&wasm).await;
        assert!(said.contains(reason), "{what}: {said}\nshould contain {reason}");
    }
}

/// What one of these is refused for is its own matter, as long as it is refused.
#[tokio::test]
async fn what_is_strange_is_refused() {
    let table = |elements: u64| [vec![0x70, 0], number(elements)].concat();
    for (what, wasm) in [
        ("a thousand deep", nested(1_000)),
        ("a hundred thousand deep", nested(100_000)),
        ("empty sections", component(&vec![section(7, b"\0"); 2_000_000])),
        ("nothing but names", component(&vec![section(0, b"\0"); 2_000_000])),
        ("a huge table", module_with(4, &[table(u32::MAX.into())])),
        ("a hundred of them", module_with(4, &vec![table(10_000_000); 100])),
        ("all of memory", module_with(5, &[[vec![0], number(65_536)].concat()])),
        ("types of types", doubled_types(17)),
        (
            "blocks in blocks",
            functions(&[body(0, &[b"\x02\x40".repeat(9_000), b"\x0b".repeat(9_000)].concat())]),
        ),
        (
            "a jump to everywhere",
            functions(&[body(
                0,
                &[&b"\x02\x40\x41\0\x0e"[..], &number(3_000_000), &vec![0; 3_000_001], b"\x0b"]
                    .concat(),
            )]),
        ),
    ] {
        let said = rejection(&wasm).await;
        assert!(!said.is_empty(), "{what}");
    }
}

/// A type of the contract's place that is small in the file and endless when it is written out.
#[tokio::test]
async fn a_type_that_shares_its_parts_is_named_and_not_written_out() {
    for (first, next, found) in [
        ("u8", "(tuple $a $a)", "`func() -> tuple`"),
        ("u8", "(result $a (error $a))", "result<result<result<"),
        ("u8", "(option $a)", "option<option<"),
    ] {
        let mut types = format!("(type $t0 {first})");
        for level in 1..=17 {
            let ty = next.replace("$a", &format!("$t{}", level - 1));
            types.push_str(&format!("(type $t{level} {ty})"));
        }
        let text = format!(
            r#"(component
                (core module $m
                    (memory (export "memory") 1)
                    (func (export "run") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                {types}
                (alias core export $i "memory" (core memory $memory))
                (func $run (result $t17) (canon lift (core func $i "run") (memory $memory)))
                (instance $handler (export "run" (func $run)))
                (export "eve:skill/handler@0.1.0" (instance $handler)))"#
        );
        let said = rejection(&wat::parse_str(text).unwrap()).await;
        assert!(said.contains(found), "{said}");
    }
}

/// Sixty megabytes of what nobody reads do no harm, and leave nothing behind.
#[tokio::test]
async fn a_large_custom_section_is_no_code() {
    let padded = |padding: &str| {
        let content = [name(padding), vec![0xff; 60_000_000]].concat();
        [guests::noop(), section(0, &content)].concat()
    };
    let plain = compile(&guests::noop(), exe()).await.unwrap().artifact.len();
    for padding in ["padding", "component-name", "name", ".debug_info", "producers"] {
        let compiled = compile(&padded(padding), exe()).await.unwrap();
        assert!(compiled.artifact.len() < plain + 1_000, "{padding}: {}", compiled.artifact.len());
    }
}

/// A good component that stops between its sections, and in the middle of them.
#[tokio::test]
async fn a_component_without_its_end_is_refused() {
    let whole = guests::queue_get();
    compile(&whole, exe()).await.unwrap();
    let ends = boundaries(&whole);
    assert!(ends.len() > 15 && ends.last() == Some(&whole.len()), "{ends:?}");
    // But for its last section, which only has names.
    for end in ends.iter().rev().skip(2) {
        for cut in [*end, end + 1, end + 3] {
            rejection(&whole[..cut]).await;
        }
    }
    // And one that goes on after its end.
    rejection(&[&whole[..], b"\x63\x01\0"].concat()).await;
    rejection(&[&whole[..], &component(&[])].concat()).await;
}
