//! Rewrites a component so that wasmtime can interrupt it wherever it may spend long.
//!
//! wasmtime looks at the epoch when a function is entered and when a loop goes round, and nowhere
//! else. What costs much in a few bytes goes unseen between the two: a million `memory.fill`s of
//! 256 MiB, or calls of the host with a megabyte each, one after the other without a loop, hold their
//! thread for hours, and no limit of ours is looked at. So, in every core module of a component:
//!
//! - Imported functions are called through a function of the module's own, which looks at the epoch;
//!   likewise where they stand in tables or are exported again.
//! - `memory.fill` and `memory.copy` are calls of a function that works [`CHUNK`] by [`CHUNK`].
//! - The other instructions over ranges, and those that grow something, come after a call of an
//!   empty function.
//!
//! What the component computes stays the same, to the byte and to the trap. The rest of a section
//! is copied as it is. Custom sections go, except for names: they count in bytes of code that are
//! others now.
//!
//! Invariant: what is written here is compiled and validated like anything else; a mistake here, or
//! a module that fools it, costs an interruption, never safety.

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{
    BlockType, CodeSection, Encode as _, Function, FunctionSection, Instruction, Module,
    RawSection, StartSection, TypeSection, ValType,
};
use wasmparser::{BinaryReader, Operator, Parser, Payload, TypeRef};

/// Changes whenever machine code made of the same component changes in what can be relied on: names
/// the engine that artifacts are for.
pub const REVISION: u32 = 1;

/// Bytes that are filled or copied in one go: some 50 us, and thrice that where the pages are new.
const CHUNK: u32 = 1 << 20;
/// Components within components.
const NESTING: usize = 32;
/// Entries of all element segments of a component. Nothing interrupts an instantiation, which goes
/// through all of them; Python has 20,000, and a component up to 64 instances.
const ELEMENTS: u64 = 1_000_000;

const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
const CUSTOM: u8 = 0;

/// The component, interruptible. Nothing is validated on the way; what cannot be read is refused
/// with words that the validator would have used.
pub fn interruptible(component: &[u8]) -> Result<Vec<u8>, String> {
    let mut elements = 0;
    nested(component, 0, &mut elements)
}

fn nested(component: &[u8], depth: usize, elements: &mut u64) -> Result<Vec<u8>, String> {
    if depth > NESTING {
        return Err(format!("components are nested more than {NESTING} deep"));
    }
    let mut reader = BinaryReader::new(component, 0);
    let preamble = reader.read_bytes(8).map_err(text)?;
    let mut out = Vec::with_capacity(component.len() + component.len() / 16);
    out.extend_from_slice(preamble);
    while !reader.eof() {
        let id = reader.read_u8().map_err(text)?;
        let mut section = reader.read_reader().map_err(text)?;
        let content = section.read_bytes(section.bytes_remaining()).map_err(text)?;
        let rewritten = match id {
            CORE_MODULE => module(content, elements)?,
            COMPONENT => nested(content, depth + 1, elements)?,
            CUSTOM => continue,
            _ => {
                raw(&mut out, id, content);
                continue;
            }
        };
        raw(&mut out, id, &rewritten);
    }
    Ok(out)
}

fn raw(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    content.encode(out);
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What a module has, and where what is added to it comes.
#[derive(Default)]
struct Shape {
    /// Parameters of each type.
    params: Vec<u32>,
    /// The types of the functions that are imported.
    imports: Vec<u32>,
    /// How many functions are its own.
    own: u32,
    has_memory: bool,
}

impl Shape {
    fn of(module: &[u8]) -> Result<Self, String> {
        let mut shape = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(text)? {
                Payload::TypeSection(types) => {
                    for ty in types.into_iter_err_on_gc_types() {
                        shape.params.push(ty.map_err(text)?.params().len() as u32);
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import.map_err(text)?.ty {
                            TypeRef::Func(ty) => shape.imports.push(ty),
                            TypeRef::Memory(_) => shape.has_memory = true,
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => shape.own = functions.count(),
                Payload::MemorySection(memories) => shape.has_memory |= memories.count() > 0,
                Payload::CodeSectionStart { .. } => break,
                _ => {}
            }
        }
        Ok(shape)
    }

    fn imported(&self) -> u32 {
        self.imports.len() as u32
    }

    /// The function that calls the import of this index, or what stands there if it is no import.
    fn through(&self, function: u32) -> u32 {
        if function < self.imported() { self.imported() + self.own + function } else { function }
    }

    /// The function that does nothing but to be entered.
    fn pause(&self) -> u32 {
        2 * self.imported() + self.own
    }

    fn fill(&self) -> u32 {
        self.pause() + 1
    }

    fn copy(&self) -> u32 {
        self.pause() + 2
    }

    /// The type of [`Self::pause`]; after it, that of [`Self::fill`] and [`Self::copy`].
    fn nullary(&self) -> u32 {
        self.params.len() as u32
    }

    /// The types of what is added, in the order of their indices.
    fn added(&self) -> Vec<u32> {
        let mut types = self.imports.clone();
        types.push(self.nullary());
        if self.has_memory {
            types.extend([self.nullary() + 1; 2]);
        }
        types
    }

    fn bodies(&self) -> Result<Vec<Function>, String> {
        let mut bodies = Vec::new();
        for (import, ty) in self.imports.iter().enumerate() {
            let params = *self.params.get(*ty as usize).ok_or("an import has no type")?;
            let mut body = Function::new([]);
            for param in 0..params {
                body.instruction(&Instruction::LocalGet(param));
            }
            body.instruction(&Instruction::Call(import as u32)).instruction(&Instruction::End);
            bodies.push(body);
        }
        let mut pause = Function::new([]);
        pause.instruction(&Instruction::End);
        bodies.push(pause);
        if self.has_memory {
            bodies.extend([fill(), copy()]);
        }
        Ok(bodies)
    }
}

/// Sends what refers to an import to the function that stands before it.
impl Reencode for &Shape {
    type Error = std::convert::Infallible;

    fn function_index(
        &mut self,
        function: u32,
    ) -> Result<u32, wasm_encoder::reencode::Error<Self::Error>> {
        Ok(self.through(function))
    }
}

fn module(module: &[u8], elements: &mut u64) -> Result<Vec<u8>, String> {
    let shape = Shape::of(module)?;
    if shape.imports.is_empty() && shape.own == 0 {
        return Ok(module.to_vec());
    }
    let mut shape = &shape;
    let added = shape.added();
    let mut out = Module::new();
    let functions = |own: &[u32]| {
        let mut section = FunctionSection::new();
        for ty in own.iter().chain(&added) {
            section.function(*ty);
        }
        section
    };
    let (mut has_functions, mut has_code) = (false, false);
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(text)?;
        // A module of imports only gets its first functions of its own, where they belong.
        let rank = rank(&payload);
        if !has_functions && rank > Some(Rank::Functions) {
            out.section(&functions(&[]));
            has_functions = true;
        }
        if !has_code && rank > Some(Rank::Code) {
            out.section(&code(shape, None, module)?);
            has_code = true;
        }
        match payload {
            Payload::TypeSection(types) => {
                let mut section = TypeSection::new();
                RoundtripReencoder.parse_type_section(&mut section, types).map_err(text)?;
                section.ty().function([], []);
                section.ty().function([ValType::I32; 3], []);
                out.section(&section);
            }
            Payload::FunctionSection(types) => {
                let own: Vec<u32> = types.into_iter().collect::<Result<_, _>>().map_err(text)?;
                out.section(&functions(&own));
                has_functions = true;
            }
            Payload::GlobalSection(globals) => {
                let mut section = wasm_encoder::GlobalSection::new();
                shape.parse_global_section(&mut section, globals).map_err(text)?;
                out.section(&section);
            }
            Payload::ExportSection(exports) => {
                let mut section = wasm_encoder::ExportSection::new();
                shape.parse_export_section(&mut section, exports).map_err(text)?;
                out.section(&section);
            }
            Payload::StartSection { func, .. } => {
                out.section(&StartSection { function_index: shape.through(func) });
            }
            Payload::ElementSection(segments) => {
                for segment in segments.clone() {
                    *elements += match segment.map_err(text)?.items {
                        wasmparser::ElementItems::Functions(items) => u64::from(items.count()),
                        wasmparser::ElementItems::Expressions(_, items) => u64::from(items.count()),
                    };
                }
                if *elements > ELEMENTS {
                    return Err(format!(
                        "its tables are filled with more than {ELEMENTS} elements"
                    ));
                }
                let mut section = wasm_encoder::ElementSection::new();
                shape.parse_element_section(&mut section, segments).map_err(text)?;
                out.section(&section);
            }
            Payload::CodeSectionStart { range, .. } => {
                out.section(&code(shape, Some(range), module)?);
                has_code = true;
            }
            Payload::CustomSection(custom) => {
                if custom.name() == "name" {
                    out.section(&RawSection { id: CUSTOM, data: &module[custom.range()] });
                }
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    out.section(&RawSection { id, data: &module[range] });
                }
            }
        }
    }
    Ok(out.finish())
}

/// Where a section stands among those that may have to be added.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    BeforeFunctions,
    Functions,
    BetweenThem,
    Code,
    AfterCode,
}

/// `None` of what is no section, and of what may stand anywhere.
fn rank(payload: &Payload<'_>) -> Option<Rank> {
    match payload {
        Payload::TypeSection(_) | Payload::ImportSection(_) => Some(Rank::BeforeFunctions),
        Payload::FunctionSection(_) => Some(Rank::Functions),
        Payload::CodeSectionStart { .. } => Some(Rank::Code),
        Payload::DataSection(_) | Payload::End(_) => Some(Rank::AfterCode),
        Payload::Version { .. } | Payload::CustomSection(_) | Payload::CodeSectionEntry(_) => None,
        _ => Some(Rank::BetweenThem),
    }
}

/// The code of the module, if it has any, and what is added to it.
fn code(
    shape: &Shape,
    section: Option<std::ops::Range<usize>>,
    module: &[u8],
) -> Result<CodeSection, String> {
    let mut code = CodeSection::new();
    if let Some(range) = section {
        let reader = BinaryReader::new(&module[range.clone()], range.start);
        for body in wasmparser::CodeSectionReader::new(reader).map_err(text)? {
            code.raw(&body_of(shape, &body.map_err(text)?).map_err(text)?);
        }
    }
    for body in shape.bodies()? {
        code.function(&body);
    }
    Ok(code)
}

/// A function's body with the instructions replaced that take long in one go; all others are copied.
fn body_of(shape: &Shape, body: &wasmparser::FunctionBody<'_>) -> wasmparser::Result<Vec<u8>> {
    let bytes = body.as_bytes();
    let begin = body.range().start;
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    let mut copied = 0;
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let at = reader.original_position() - begin;
        let operator = reader.read()?;
        let (instead, replaces) = match operator {
            Operator::Call { function_index } if function_index < shape.imported() => {
                (Instruction::Call(shape.through(function_index)), true)
            }
            Operator::RefFunc { function_index } if function_index < shape.imported() => {
                (Instruction::RefFunc(shape.through(function_index)), true)
            }
            Operator::MemoryFill { mem: 0 } => (Instruction::Call(shape.fill()), true),
            Operator::MemoryCopy { dst_mem: 0, src_mem: 0 } => {
                (Instruction::Call(shape.copy()), true)
            }
            Operator::MemoryFill { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryInit { .. }
            | Operator::MemoryGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::TableGrow { .. } => (Instruction::Call(shape.pause()), false),
            _ => continue,
        };
        out.extend_from_slice(&bytes[copied..at]);
        instead.encode(&mut out);
        copied = if replaces { reader.original_position() - begin } else { at };
    }
    out.extend_from_slice(&bytes[copied..]);
    Ok(out)
}

fn append(body: &mut Function, instructions: &[Instruction<'_>]) {
    for instruction in instructions {
        body.instruction(instruction);
    }
}

/// `memory.fill` for any length: (to, value, length).
fn fill() -> Function {
    let (to, value, length) = (0, 1, 2);
    let mut body = Function::new([]);
    let mut say = |instructions: &[Instruction<'_>]| append(&mut body, instructions);
    let whole = [
        Instruction::LocalGet(to),
        Instruction::LocalGet(value),
        Instruction::LocalGet(length),
        Instruction::MemoryFill(0),
        Instruction::Return,
    ];
    say(&at_once(length, &[to]));
    say(&whole);
    say(&[Instruction::End, Instruction::Loop(BlockType::Empty)]);
    say(&[
        Instruction::LocalGet(to),
        Instruction::LocalGet(value),
        Instruction::I32Const(CHUNK as i32),
        Instruction::MemoryFill(0),
    ]);
    say(&moved(to, CHUNK as i32));
    say(&again(length));
    say(&whole);
    say(&[Instruction::End]);
    body
}

/// `memory.copy` for any length: (to, from, length). What overlaps is copied from the end at which
/// nothing is overwritten that is still to be read.
fn copy() -> Function {
    let (to, from, length) = (0, 1, 2);
    let mut body = Function::new([]);
    let mut say = |instructions: &[Instruction<'_>]| append(&mut body, instructions);
    let whole = [
        Instruction::LocalGet(to),
        Instruction::LocalGet(from),
        Instruction::LocalGet(length),
        Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 },
        Instruction::Return,
    ];
    say(&at_once(length, &[to, from]));
    say(&whole);
    say(&[
        Instruction::End,
        Instruction::LocalGet(to),
        Instruction::LocalGet(from),
        Instruction::I32LeU,
        Instruction::If(BlockType::Empty),
        Instruction::Loop(BlockType::Empty),
        Instruction::LocalGet(to),
        Instruction::LocalGet(from),
        Instruction::I32Const(CHUNK as i32),
        Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 },
    ]);
    say(&moved(to, CHUNK as i32));
    say(&moved(from, CHUNK as i32));
    say(&again(length));
    say(&whole);
    // From the end: what is left is always the beginning.
    say(&[Instruction::End, Instruction::Loop(BlockType::Empty)]);
    for place in [to, from] {
        say(&[
            Instruction::LocalGet(place),
            Instruction::LocalGet(length),
            Instruction::I32Add,
            Instruction::I32Const(CHUNK as i32),
            Instruction::I32Sub,
        ]);
    }
    say(&[Instruction::I32Const(CHUNK as i32), Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 }]);
    say(&again(length));
    say(&whole);
    say(&[Instruction::End]);
    body
}

/// Begins an `if` for a length that needs no chunks, and for a range that is out of bounds: the
/// instruction has to trap itself, before anything is written.
fn at_once(length: u32, places: &[u32]) -> Vec<Instruction<'static>> {
    let mut condition = vec![
        Instruction::LocalGet(length),
        Instruction::I32Const(CHUNK as i32),
        Instruction::I32LeU,
    ];
    for place in places {
        condition.extend([
            Instruction::LocalGet(*place),
            Instruction::I64ExtendI32U,
            Instruction::LocalGet(length),
            Instruction::I64ExtendI32U,
            Instruction::I64Add,
            Instruction::MemorySize(0),
            Instruction::I64ExtendI32U,
            Instruction::I64Const(16),
            Instruction::I64Shl,
            Instruction::I64GtU,
            Instruction::I32Or,
        ]);
    }
    condition.push(Instruction::If(BlockType::Empty));
    condition
}

fn moved(local: u32, by: i32) -> [Instruction<'static>; 4] {
    [
        Instruction::LocalGet(local),
        Instruction::I32Const(by),
        Instruction::I32Add,
        Instruction::LocalSet(local),
    ]
}

/// One chunk less; goes round as long as there is more than another, and ends the loop.
fn again(length: u32) -> Vec<Instruction<'static>> {
    let mut instructions = moved(length, -(CHUNK as i32)).to_vec();
    instructions.extend([
        Instruction::LocalGet(length),
        Instruction::I32Const(CHUNK as i32),
        Instruction::I32GtU,
        Instruction::BrIf(0),
        Instruction::End,
    ]);
    instructions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wasmtime::{Engine, Instance, Store};

    use super::*;

    /// Three memories' worth of chunks, and a little.
    const PAGES: u32 = 50;
    const BYTES: u32 = PAGES << 16;

    const MOVES: &str = r#"(module
        (memory (export "memory") 50)
        (func (export "fill") (param i32 i32 i32)
            (memory.fill (local.get 0) (local.get 1) (local.get 2)))
        (func (export "copy") (param i32 i32 i32)
            (memory.copy (local.get 0) (local.get 1) (local.get 2))))"#;

    fn wrapped(module: &[u8]) -> Vec<u8> {
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        raw(&mut component, CORE_MODULE, module);
        component
    }

    fn rewritten(module: &[u8]) -> Vec<u8> {
        let mut elements = 0;
        super::module(module, &mut elements).unwrap()
    }

    /// What the memory holds after these calls, and which of them trapped.
    fn played(
        engine: &Engine,
        module: &[u8],
        calls: &[(bool, u32, u32, u32)],
    ) -> (Vec<u8>, Vec<bool>) {
        let module = wasmtime::Module::new(engine, module).unwrap();
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        for (index, byte) in memory.data_mut(&mut store).iter_mut().enumerate() {
            *byte = (index % 251) as u8 ^ (index >> 16) as u8;
        }
        let trapped = calls
            .iter()
            .map(|(copy, to, from, length)| {
                let name = if *copy { "copy" } else { "fill" };
                let call =
                    instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, name).unwrap();
                let called = call.call(&mut store, (*to, *from, *length));
                if let Err(error) = &called {
                    let trap = error.downcast_ref::<wasmtime::Trap>();
                    assert_eq!(trap, Some(&wasmtime::Trap::MemoryOutOfBounds));
                }
                called.is_err()
            })
            .collect();
        (memory.data(&store).to_vec(), trapped)
    }

    fn place() -> impl Strategy<Value = u32> {
        prop_oneof![
            4 => 0..BYTES + 2,
            1 => prop::sample::select(vec![0, CHUNK, 2 * CHUNK, BYTES, u32::MAX]),
        ]
    }

    fn length() -> impl Strategy<Value = u32> {
        prop_oneof![
            4 => CHUNK - 1..BYTES / 2,
            1 => 0..64_u32,
            1 => prop::sample::select(
                vec![0, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK, BYTES, u32::MAX]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn what_is_moved_is_moved_as_before(
            calls in prop::collection::vec((any::<bool>(), place(), place(), length()), 1..6)
        ) {
            let engine = Engine::default();
            let module = wat::parse_str(MOVES).unwrap();
            let expected = played(&engine, &module, &calls);
            prop_assert!(played(&engine, &rewritten(&module), &calls) == expected);
        }
    }

    #[test]
    fn imports_are_reached_everywhere() {
        let module = wat::parse_str(
            r#"(module
                (import "host" "add" (func $add (param i32 i64) (result i64)))
                (import "host" "none" (func $none))
                (type $adding (func (param i32 i64) (result i64)))
                (global $ref funcref (ref.func $add))
                (table $table 3 funcref)
                (elem (i32.const 0) func $add $none)
                (elem (i32.const 2) funcref (ref.func $add))
                (start $none)
                (func (export "direct") (result i64) (call $add (i32.const 1) (i64.const 2)))
                (func (export "through-table") (param i32) (result i64)
                    (call_indirect (type $adding) (i32.const 3) (i64.const 4) (local.get 0)))
                (func (export "through-global") (result i64)
                    (table.set $table (i32.const 1) (global.get $ref))
                    (call_indirect (type $adding) (i32.const 5) (i64.const 6) (i32.const 1)))
                (export "again" (func $add)))"#,
        )
        .unwrap();
        let engine = Engine::default();
        for module in [module.clone(), rewritten(&module), rewritten(&rewritten(&module))] {
            let module = wasmtime::Module::new(&engine, module).unwrap();
            let mut store = Store::new(&engine, 0_u32);
            let mut linker = wasmtime::Linker::new(&engine);
            linker.func_wrap("host", "add", |a: u32, b: u64| u64::from(a) + b).unwrap();
            linker
                .func_wrap("host", "none", |mut caller: wasmtime::Caller<'_, u32>| {
                    *caller.data_mut() += 1;
                })
                .unwrap();
            let instance = linker.instantiate(&mut store, &module).unwrap();
            assert_eq!(*store.data(), 1);
            let call = |store: &mut Store<u32>, name: &str| {
                let function = instance.get_typed_func::<(), u64>(&mut *store, name).unwrap();
                function.call(store, ()).unwrap()
            };
            assert_eq!(call(&mut store, "direct"), 3);
            let indirect =
                instance.get_typed_func::<u32, u64>(&mut store, "through-table").unwrap();
            assert_eq!(indirect.call(&mut store, 0).unwrap(), 7);
            assert_eq!(indirect.call(&mut store, 2).unwrap(), 7);
            assert!(indirect.call(&mut store, 1).is_err(), "another type");
            assert_eq!(call(&mut store, "through-global"), 11);
            let again = instance.get_typed_func::<(u32, u64), u64>(&mut store, "again").unwrap();
            assert_eq!(again.call(&mut store, (20, 22)).unwrap(), 42);
        }
    }

    #[test]
    fn modules_of_imports_only_get_functions_of_their_own() {
        let module = wat::parse_str(
            r#"(module
                (import "host" "none" (func $none))
                (import "host" "table" (table 1 funcref))
                (import "host" "memory" (memory 1))
                (elem (i32.const 0) func $none)
                (data (i32.const 0) "hello"))"#,
        )
        .unwrap();
        wasmtime::Module::new(&Engine::default(), rewritten(&module)).unwrap();
        let data_only = wat::parse_str(r#"(module (memory 1) (data (i32.const 0) "x"))"#).unwrap();
        assert_eq!(rewritten(&data_only), data_only);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(interruptible(b"").is_err());
        assert!(interruptible(&wrapped(b"\0asm\x01\0\0\0\x03")).is_err());
        let mut nested = wrapped(&wat::parse_str("(module)").unwrap());
        assert_eq!(interruptible(&nested).unwrap(), nested);
        for _ in 0..NESTING {
            let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
            raw(&mut outer, COMPONENT, &nested);
            nested = outer;
        }
        assert_eq!(interruptible(&nested).unwrap(), nested);
        let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
        raw(&mut outer, COMPONENT, &nested);
        assert!(interruptible(&outer).unwrap_err().contains("nested"));
    }

    #[test]
    fn there_is_an_end_to_elements() {
        let segment = format!("(elem func {})", "0 ".repeat(20_000));
        let many = format!("(module (func) {})", segment.repeat(51));
        let refused = interruptible(&wrapped(&wat::parse_str(&many).unwrap())).unwrap_err();
        assert!(refused.contains("1000000 elements"), "{refused}");
    }
}
