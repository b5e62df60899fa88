//! WebAssembly, byte by byte: what no tool would write.

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// An unsigned number.
pub fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

/// A count, and what is counted.
pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [number(items.len() as u64), items.concat()].concat()
}

/// A name, or any bytes where one should be.
pub fn name(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&number(text.len() as u64), text].concat()
}

pub fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [&[id][..], &number(body.len() as u64), body].concat()
}

pub fn component(sections: &[Vec<u8>]) -> Vec<u8> {
    [COMPONENT, &sections.concat()].concat()
}

pub fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [MODULE, &sections.concat()].concat()
}

/// A component's section with a core module.
pub fn core(sections: &[Vec<u8>]) -> Vec<u8> {
    section(1, &module(sections))
}

/// A component of one core module, whose functions take nothing and give nothing.
pub fn functions(bodies: &[Vec<u8>]) -> Vec<u8> {
    let types = section(1, &list(&[b"\x60\0\0".to_vec()]));
    let declared = section(3, &list(&vec![number(0); bodies.len()]));
    let bodies: Vec<_> = bodies.iter().map(name).collect();
    component(&[core(&[types, declared, section(10, &list(&bodies))])])
}

/// A function's body: so many locals of 64 bits, and instructions.
pub fn body(locals: u64, instructions: &[u8]) -> Vec<u8> {
    const I64: u8 = 0x7e;
    [&list(&[[number(locals), vec![I64]].concat()]), instructions, b"\x0b"].concat()
}

/// A component that imports interfaces by these names, each with one function.
pub fn importing(names: &[&[u8]]) -> Vec<u8> {
    let function = b"\x01\x40\0\x01\0".to_vec();
    let export = [b"\x04\0".to_vec(), name("f"), vec![1, 0]].concat();
    let interface = [b"\x42".to_vec(), list(&[function, export])].concat();
    let imports: Vec<_> =
        names.iter().map(|text| [vec![0], name(text), vec![5, 0]].concat()).collect();
    component(&[section(7, &list(&[interface])), section(10, &list(&imports))])
}

/// The offsets at which the sections of a component begin, and its end.
pub fn boundaries(wasm: &[u8]) -> Vec<usize> {
    let mut at = COMPONENT.len();
    let mut found = vec![at];
    while at < wasm.len() {
        at += 1;
        let (mut size, mut shift) = (0, 0);
        loop {
            let byte = wasm[at];
            at += 1;
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += size;
        found.push(at);
    }
    found
}
