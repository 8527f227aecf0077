//! Reads what a VCEK or VLEK certificate says about chip, firmware and product (57230 chapter 3).

use super::tables::Role;
use super::{Endorsement, Product, TcbVersion, mismatch};
use crate::attest::x509::{Certificate, ObjectIdentifier};
use crate::attest::{Fault, Reason};
use x509_cert::der::asn1::{AnyRef, Ia5StringRef, OctetStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Tag, Tagged};

/// AMD's arc for these extensions is 1.3.6.1.4.1.3704.1.
const STRUCT_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.1");
const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const SPL_4: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.4");
const SPL_5: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.5");
const SPL_6: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.6");
const SPL_7: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.7");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// The bytes of a TCB_VERSION from lowest to highest, as extensions of a certificate.
const LAYOUT: [ObjectIdentifier; 8] = [BOOTLOADER, TEE, SPL_4, SPL_5, SPL_6, SPL_7, SNP, MICROCODE];
const LAYOUT_TURIN: [ObjectIdentifier; 8] = [FMC, BOOTLOADER, TEE, SNP, SPL_5, SPL_6, SPL_7, MICROCODE];

/// The names of cloud providers are host names; a certificate of 8 KiB could carry more than anyone wants to read.
const MAX_CSP_ID_BYTES: usize = 256;

/// What a leaf certificate says; its signature is checked elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) product: Product,
    pub(super) tcb: TcbVersion,
    pub(super) identity: Identity,
}

/// Whose key it is.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// A chip's, by the identifier as reports hold it.
    Chip([u8; 64]),
    /// A cloud provider's, by its name.
    Provider(String),
}

impl Leaf {
    /// Reads the extensions; each that the product line has must be there, and none that it has not.
    pub(super) fn read(certificate: &Certificate, endorsement: Endorsement) -> Result<Leaf, Fault> {
        let reader = Extensions(certificate);
        let version = reader.number(STRUCT_VERSION)?;
        if version > 1 {
            return Err(Fault::new(Reason::UnsupportedProduct, format!("the certificate's layout is of version {version}, wanted 0 or 1")));
        }
        let name = reader.text(PRODUCT_NAME)?;
        let product = Product::of_name(name).ok_or_else(|| {
            Fault::new(Reason::UnsupportedProduct, format!("the certificate is for the product {name:?}, wanted Milan, Genoa or Turin"))
        })?;
        let identity = match endorsement {
            Endorsement::Vcek => reader.chip(product)?,
            Endorsement::Vlek => reader.provider()?,
        };
        Ok(Leaf { product, tcb: reader.tcb(product)?, identity })
    }

    pub(super) fn endorsement(&self) -> Endorsement {
        match self.identity {
            Identity::Chip(_) => Endorsement::Vcek,
            Identity::Provider(_) => Endorsement::Vlek,
        }
    }

    /// The role of the certificate that issues such leaves.
    pub(super) fn issuer_role(&self) -> Role {
        match self.identity {
            Identity::Chip(_) => Role::Ask(self.product),
            Identity::Provider(_) => Role::Asvk(self.product),
        }
    }
}

struct Extensions<'a>(&'a Certificate);

impl<'a> Extensions<'a> {
    fn value(&self, identifier: ObjectIdentifier) -> Result<&'a [u8], Fault> {
        self.0.extension(identifier).ok_or_else(|| mismatch(format!("{} lacks the extension {identifier}", self.0.label())))
    }

    fn refuse(&self, identifier: ObjectIdentifier) -> Result<(), Fault> {
        match self.0.extension(identifier) {
            Some(_) => Err(mismatch(format!("{} has the extension {identifier}, wanted none", self.0.label()))),
            None => Ok(()),
        }
    }

    fn wrong(&self, identifier: ObjectIdentifier, wanted: &str) -> Fault {
        mismatch(format!("the extension {identifier} of {} is not {wanted}", self.0.label()))
    }

    /// An INTEGER from 0 to 255.
    fn number(&self, identifier: ObjectIdentifier) -> Result<u8, Fault> {
        u8::from_der(self.value(identifier)?).map_err(|_| self.wrong(identifier, "a number from 0 to 255"))
    }

    /// An IA5String, as AMD's key service writes it, or a UTF8String, which revisions of 57230 name.
    fn text(&self, identifier: ObjectIdentifier) -> Result<&'a str, Fault> {
        let value = AnyRef::from_der(self.value(identifier)?).ok();
        let text = value.and_then(|value| match value.tag() {
            Tag::Ia5String => value.decode_as::<Ia5StringRef<'a>>().ok().map(|text| text.as_str()),
            Tag::Utf8String => value.decode_as::<Utf8StringRef<'a>>().ok().map(|text| text.as_str()),
            _ => None,
        });
        text.ok_or_else(|| self.wrong(identifier, "a text"))
    }

    /// The versions as the bytes of a TCB_VERSION, so that they can be compared with those of a report.
    fn tcb(&self, product: Product) -> Result<TcbVersion, Fault> {
        let (layout, absent) = match product {
            Product::Milan | Product::Genoa => (LAYOUT, FMC),
            Product::Turin => (LAYOUT_TURIN, SPL_4),
        };
        self.refuse(absent)?;
        let mut bytes = [0; 8];
        for (byte, identifier) in bytes.iter_mut().zip(layout) {
            *byte = self.number(identifier)?;
        }
        let tcb = TcbVersion(bytes);
        tcb.parts(product).map(|_| tcb)
    }

    /// The bytes themselves, as AMD's key service writes them, or an OCTET STRING of them, as 57230 says.
    fn chip(&self, product: Product) -> Result<Identity, Fault> {
        self.refuse(CSP_ID)?;
        let (value, wanted) = (self.value(HARDWARE_ID)?, product.chip_id_bytes());
        let inner = OctetStringRef::from_der(value).map_or(value, |string| string.as_bytes());
        let bytes = if value.len() == wanted { value } else { inner };
        if bytes.len() != wanted || bytes.iter().all(|&byte| byte == 0) {
            return Err(self.wrong(HARDWARE_ID, &format!("an identifier of {wanted} bytes that are not all zero")));
        }
        let mut chip_id = [0; 64];
        chip_id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(Identity::Chip(chip_id))
    }

    fn provider(&self) -> Result<Identity, Fault> {
        self.refuse(HARDWARE_ID)?;
        let name = self.text(CSP_ID)?;
        if name.is_empty() || name.len() > MAX_CSP_ID_BYTES {
            return Err(self.wrong(CSP_ID, &format!("a name of 1 to {MAX_CSP_ID_BYTES} bytes")));
        }
        Ok(Identity::Provider(name.to_owned()))
    }
}
