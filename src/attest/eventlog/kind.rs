//! The types of events by name and number.

use std::fmt;

/// What an event says it is (TCG PC Client Platform Firmware Profile 1.06, section 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Reserved.
    PrebootCert,
    /// A power-on self test.
    PostCode,
    /// Only informs: no register is extended.
    NoAction,
    /// Stands between what firmware measures for itself and what it starts.
    Separator,
    /// Something that happened.
    Action,
    /// A structure with a number; Linux tells so what it was started with.
    EventTag,
    /// Contents of the code that starts first.
    SCrtmContents,
    /// Version of the code that starts first.
    SCrtmVersion,
    /// Microcode of a processor.
    CpuMicrocode,
    /// Flags of the platform.
    PlatformConfigFlags,
    /// Tables of devices.
    TableOfDevices,
    /// A hash that was replaced.
    CompactHash,
    /// Code that a boot loader started; systemd's stub tells so what it found in itself.
    Ipl,
    /// Data of a boot loader's partition.
    IplPartitionData,
    /// Code that is not run by the host's processor.
    NonhostCode,
    /// Settings of such code.
    NonhostConfig,
    /// Facts about such code.
    NonhostInfo,
    /// Devices that boot did without.
    OmitBootDeviceEvents,
    /// A test of another kind than [`EventType::PostCode`].
    PostCode2,
    /// A UEFI variable that configures drivers, as in `SecureBoot`.
    EfiVariableDriverConfig,
    /// A UEFI variable that tells how to boot, as in `BootOrder`.
    EfiVariableBoot,
    /// A program that firmware started.
    EfiBootServicesApplication,
    /// A driver that ends with the boot.
    EfiBootServicesDriver,
    /// A driver that stays.
    EfiRuntimeServicesDriver,
    /// A table of partitions.
    EfiGptEvent,
    /// Something that firmware did.
    EfiAction,
    /// A part of the firmware.
    EfiPlatformFirmwareBlob,
    /// Tables that firmware hands over.
    EfiHandoffTables,
    /// A part of the firmware, with its name.
    EfiPlatformFirmwareBlob2,
    /// Tables that firmware hands over, with their name.
    EfiHandoffTables2,
    /// A UEFI variable that tells how to boot, only its contents.
    EfiVariableBoot2,
    /// A table of partitions without what is unique to a disk.
    EfiGptEvent2,
    /// Started with the help of the processor.
    EfiHcrtmEvent,
    /// The key or digest that allowed a program to start under Secure Boot.
    EfiVariableAuthority,
    /// Firmware of a device.
    EfiSpdmFirmwareBlob,
    /// Settings of a device.
    EfiSpdmFirmwareConfig,
    /// Rules for devices.
    EfiSpdmDevicePolicy,
    /// A key that vouched for a device.
    EfiSpdmDeviceAuthority,
    /// Another number.
    Unknown(u32),
}

/// Every type with its number and its name in the specification.
const ALL: [(u32, EventType, &str); 38] = [
    (0x0000_0000, EventType::PrebootCert, "EV_PREBOOT_CERT"),
    (0x0000_0001, EventType::PostCode, "EV_POST_CODE"),
    (0x0000_0003, EventType::NoAction, "EV_NO_ACTION"),
    (0x0000_0004, EventType::Separator, "EV_SEPARATOR"),
    (0x0000_0005, EventType::Action, "EV_ACTION"),
    (0x0000_0006, EventType::EventTag, "EV_EVENT_TAG"),
    (0x0000_0007, EventType::SCrtmContents, "EV_S_CRTM_CONTENTS"),
    (0x0000_0008, EventType::SCrtmVersion, "EV_S_CRTM_VERSION"),
    (0x0000_0009, EventType::CpuMicrocode, "EV_CPU_MICROCODE"),
    (0x0000_000a, EventType::PlatformConfigFlags, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0000_000b, EventType::TableOfDevices, "EV_TABLE_OF_DEVICES"),
    (0x0000_000c, EventType::CompactHash, "EV_COMPACT_HASH"),
    (0x0000_000d, EventType::Ipl, "EV_IPL"),
    (0x0000_000e, EventType::IplPartitionData, "EV_IPL_PARTITION_DATA"),
    (0x0000_000f, EventType::NonhostCode, "EV_NONHOST_CODE"),
    (0x0000_0010, EventType::NonhostConfig, "EV_NONHOST_CONFIG"),
    (0x0000_0011, EventType::NonhostInfo, "EV_NONHOST_INFO"),
    (0x0000_0012, EventType::OmitBootDeviceEvents, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x0000_0013, EventType::PostCode2, "EV_POST_CODE2"),
    (0x8000_0001, EventType::EfiVariableDriverConfig, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (0x8000_0002, EventType::EfiVariableBoot, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, EventType::EfiBootServicesApplication, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, EventType::EfiBootServicesDriver, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, EventType::EfiRuntimeServicesDriver, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, EventType::EfiGptEvent, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, EventType::EfiAction, "EV_EFI_ACTION"),
    (0x8000_0008, EventType::EfiPlatformFirmwareBlob, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, EventType::EfiHandoffTables, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, EventType::EfiPlatformFirmwareBlob2, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, EventType::EfiHandoffTables2, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, EventType::EfiVariableBoot2, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_000d, EventType::EfiGptEvent2, "EV_EFI_GPT_EVENT2"),
    (0x8000_0010, EventType::EfiHcrtmEvent, "EV_EFI_HCRTM_EVENT"),
    (0x8000_00e0, EventType::EfiVariableAuthority, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, EventType::EfiSpdmFirmwareBlob, "EV_EFI_SPDM_FIRMWARE_BLOB"),
    (0x8000_00e2, EventType::EfiSpdmFirmwareConfig, "EV_EFI_SPDM_FIRMWARE_CONFIG"),
    (0x8000_00e3, EventType::EfiSpdmDevicePolicy, "EV_EFI_SPDM_DEVICE_POLICY"),
    (0x8000_00e4, EventType::EfiSpdmDeviceAuthority, "EV_EFI_SPDM_DEVICE_AUTHORITY"),
];

impl EventType {
    /// The type with this number.
    pub fn from_code(code: u32) -> EventType {
        ALL.iter().find(|(known, _, _)| *known == code).map_or(EventType::Unknown(code), |(_, kind, _)| *kind)
    }

    /// Its number.
    pub fn code(self) -> u32 {
        match self {
            EventType::Unknown(code) => code,
            _ => ALL.iter().find(|(_, kind, _)| *kind == self).map_or(u32::MAX, |(code, _, _)| *code),
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ALL.iter().find(|(_, kind, _)| kind == self) {
            Some((_, _, name)) => f.write_str(name),
            None => write!(f, "event type {:#010x}", self.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back_from_its_number() {
        for (code, kind, name) in ALL {
            assert_eq!((EventType::from_code(code), kind.code(), kind.to_string().as_str()), (kind, code, name));
        }
        assert_eq!(EventType::from_code(0x1234), EventType::Unknown(0x1234));
        assert_eq!(EventType::Unknown(0x1234).code(), 0x1234);
        assert_eq!(EventType::Unknown(0x1234).to_string(), "event type 0x00001234");
    }
}
