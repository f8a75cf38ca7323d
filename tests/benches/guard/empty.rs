//! A program that does nothing: the floor of what a program costs.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

const NAME: &str = "empty";
/// `r0 = -1` (`TC_ACT_UNSPEC`), `exit`.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// The program, loaded.
pub(crate) struct Empty(Ebpf);

impl Empty {
    pub(crate) fn load() -> Result<Self> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
        object.append_section_data(section, &CODE, 8);
        object.add_symbol(Symbol {
            name: NAME.into(),
            value: 0,
            size: CODE.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        let mut ebpf = EbpfLoader::new().load(&object.write()?)?;
        let program: &mut SchedClassifier = ebpf.program_mut(NAME).context(NAME)?.try_into()?;
        program.load()?;
        Ok(Self(ebpf))
    }

    pub(crate) fn program(&mut self) -> Result<&mut SchedClassifier> {
        let program: Result<_, ProgramError> = self.0.program_mut(NAME).context(NAME)?.try_into();
        Ok(program?)
    }
}
