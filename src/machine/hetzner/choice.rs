//! What a machine at Hetzner would be: which image, which size, where, and what that costs.

use super::SIZE_LABEL;
use super::api::Api;
use super::types::{Image, Pricing, ServerType};
use crate::error::{Code, Error, Result};
use crate::machine::provider::CloudPlan;

/// Where machines stand unless somebody says otherwise, if there is room.
const USUAL_PLACE: &str = "fsn1";

/// Everything that is chosen before the first request that makes something.
pub(super) struct Choice {
    pub(super) image: Image,
    pub(super) size: ServerType,
    pub(super) place: String,
    pub(super) cost: Cost,
}

/// What it costs, in words that can be shown before.
pub(super) struct Cost {
    monthly: f64,
    hourly: f64,
    address: Option<f64>,
    currency: String,
}

impl Cost {
    fn of(size: &ServerType, place: &str, prices: &Pricing) -> Option<Cost> {
        let price = size.prices.iter().find(|price| price.location == place)?;
        let addresses = prices.primary_ips.iter().filter(|price| price.kind == "ipv4").flat_map(|price| &price.prices);
        Some(Cost {
            monthly: price.price_monthly.number(),
            hourly: price.price_hourly.number(),
            address: addresses.into_iter().find(|price| price.location == place).map(|price| price.price_monthly.number()),
            currency: prices.currency.clone(),
        })
    }

    /// `EUR 4.15 a month (0.0067 an hour), its IPv4 address EUR 0.60 more; with VAT`.
    pub(super) fn words(&self) -> String {
        let address = self.address.map(|price| format!(", its IPv4 address {} {price:.2} more", self.currency)).unwrap_or_default();
        format!("{} {:.2} a month ({:.4} an hour){address}; with VAT", self.currency, self.monthly, self.hourly)
    }
}

impl Choice {
    /// Chooses; nothing is made. `ours` selects what is ours.
    pub(super) async fn of(api: &Api, ours: &str, plan: &CloudPlan, zone: Option<&str>) -> Result<Choice> {
        let image = image(api, ours, plan.image.as_deref()).await?;
        let sizes = sizes(api).await?;
        let fits = |size: &&ServerType| size.architecture == image.architecture && size.disk >= image.disk_size;
        // What it was written on is known to start it.
        let wanted = plan.size.as_deref().or(image.labels.get(SIZE_LABEL).map(String::as_str));
        let size = named_size(&sizes, wanted, fits)?;
        let place = place_of(size, zone)?;
        let prices = api.pricing().await?;
        let cost = Cost::of(size, &place, &prices).ok_or_else(|| no_room(size, zone))?;
        Ok(Choice { size: size.clone(), image, place, cost })
    }

    /// The size and the place in words.
    pub(super) fn words(&self) -> String {
        let ServerType { name, cores, memory, disk, .. } = &self.size;
        format!("{name} ({cores} processors, {memory} GB of memory, {disk} GB of disk) in {}", self.place)
    }
}

pub(super) async fn sizes(api: &Api) -> Result<Vec<ServerType>> {
    Ok(api.list("server_types", "").await?)
}

/// The size of that name; the cheapest that fits if none is named.
pub(super) fn named_size<'a>(sizes: &'a [ServerType], name: Option<&str>, fits: impl Fn(&&ServerType) -> bool) -> Result<&'a ServerType> {
    let names = || sizes.iter().filter(|size| fits(size)).map(|size| size.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => sizes.iter().find(|size| size.name == name && fits(size)).ok_or_else(|| {
            Error::new(Code::Usage, format!("Hetzner has no size {name:?} on which the image fits"))
                .hint(format!("--size one of {}", names()))
        }),
        None => cheapest(sizes.iter().filter(|size| fits(size)))
            .ok_or_else(|| Error::new(Code::Precondition, "Hetzner has no size on which the image fits").hint("publish the image again")),
    }
}

fn cheapest<'a>(sizes: impl Iterator<Item = &'a ServerType>) -> Option<&'a ServerType> {
    let price = |size: &ServerType| size.prices.iter().map(|price| price.price_monthly.number()).fold(f64::MAX, f64::min);
    sizes.filter(|size| size.locations.iter().any(|place| place.available)).min_by(|a, b| price(a).total_cmp(&price(b)))
}

/// Where: as asked, else at the usual place, else wherever there is room.
pub(super) fn place_of(size: &ServerType, zone: Option<&str>) -> Result<String> {
    let open: Vec<_> = size.locations.iter().filter(|place| place.available).map(|place| place.name.as_str()).collect();
    let place = match zone {
        Some(zone) => open.iter().find(|place| **place == zone),
        None => open.iter().find(|place| **place == USUAL_PLACE).or(open.first()),
    };
    place.map(|place| (*place).to_owned()).ok_or_else(|| no_room(size, zone))
}

fn no_room(size: &ServerType, zone: Option<&str>) -> Error {
    let open: Vec<_> = size.locations.iter().filter(|place| place.available).map(|place| place.name.as_str()).collect();
    let hint = match open.is_empty() {
        true => "choose another size: --size cpx22".to_owned(),
        false => format!("--zone one of {}", open.join(", ")),
    };
    Error::new(Code::Precondition, format!("Hetzner has no {} in {} now", size.name, zone.unwrap_or(USUAL_PLACE))).hint(hint)
}

/// The image of that name or number; the newest that is ours if none is named.
async fn image(api: &Api, ours: &str, name: Option<&str>) -> Result<Image> {
    if let Some(number) = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        // Somebody's own snapshot, by its number: it is only read.
        let images: Vec<Image> = api.list("images", "&type=snapshot").await?;
        let found = images.into_iter().find(|image| image.id.to_string() == number);
        return usable(found.ok_or_else(|| no_image(name))?);
    }
    let mut images = published(api, ours).await?;
    images.retain(|image| name.is_none_or(|name| image.description == name));
    usable(images.pop().ok_or_else(|| no_image(name))?)
}

/// What was published, the oldest first; `ours` selects it.
pub(super) async fn published(api: &Api, ours: &str) -> Result<Vec<Image>> {
    let mut images: Vec<Image> = api.list("images", &format!("&type=snapshot{ours}")).await?;
    images.sort_by(|a, b| (&a.created, a.id).cmp(&(&b.created, b.id)));
    Ok(images)
}

fn usable(image: Image) -> Result<Image> {
    if image.kind == "snapshot" && image.status == "available" {
        return Ok(image);
    }
    Err(Error::new(Code::Precondition, format!("the image {} cannot be used: it is {}", image.id, image.status))
        .hint("wait until it is available, or name another one: --image NAME"))
}

fn no_image(name: Option<&str>) -> Error {
    match name {
        Some(name) => Error::new(Code::NotFound, format!("there is no image {name:?} in the project at Hetzner")),
        None => Error::new(Code::NotFound, "there is no image of yours in the project at Hetzner"),
    }
    .hint("portdistrict machine publish --on hetzner --image FOLDER")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sizes() -> Vec<ServerType> {
        let size = |name: &str, architecture: &str, disk: u32, monthly: &str, places: &[(&str, bool)]| {
            let price =
                |place: &str| json!({ "location": place, "price_hourly": { "gross": "0.01" }, "price_monthly": { "gross": monthly } });
            json!({
                "name": name, "cores": 2, "memory": 4.0, "disk": disk, "architecture": architecture,
                "prices": places.iter().map(|(place, _)| price(place)).collect::<Vec<_>>(),
                "locations": places.iter().map(|(name, open)| json!({ "name": name, "available": open })).collect::<Vec<_>>(),
            })
        };
        let all = json!([
            size("large", "x86", 80, "12.49", &[("fsn1", true), ("ash", true)]),
            size("small", "x86", 40, "4.15", &[("nbg1", true), ("fsn1", false)]),
            size("tiny", "x86", 20, "2.00", &[("fsn1", true)]),
            size("full", "x86", 40, "1.00", &[("fsn1", false)]),
            size("arm", "arm", 40, "3.00", &[("fsn1", true)]),
        ]);
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn the_cheapest_size_with_room_is_taken_unless_one_is_named() {
        let sizes = sizes();
        let fits = |size: &&ServerType| size.architecture == "x86" && size.disk >= 40.0;
        let small = named_size(&sizes, None, fits).unwrap();
        assert_eq!((small.name.as_str(), place_of(small, None).unwrap().as_str()), ("small", "nbg1"));
        let large = named_size(&sizes, Some("large"), fits).unwrap();
        assert_eq!((place_of(large, None).unwrap().as_str(), place_of(large, Some("ash")).unwrap().as_str()), ("fsn1", "ash"));
        for (error, expected) in [
            (named_size(&sizes, Some("arm"), fits).unwrap_err(), "large, small, full"),
            (place_of(small, Some("fsn1")).unwrap_err(), "nbg1"),
            (place_of(&sizes[3], None).unwrap_err(), "another size"),
        ] {
            assert!(error.hint_text().unwrap().contains(expected), "{error}");
        }
    }

    #[test]
    fn the_price_is_said_with_everything_that_is_paid() {
        let prices = json!({
            "currency": "EUR", "image": { "price_per_gb_month": { "gross": "0.01" } },
            "primary_ips": [{ "type": "ipv4", "prices": [{ "location": "nbg1", "price_monthly": { "gross": "0.595" } }] }],
        });
        let (prices, sizes): (Pricing, _) = (serde_json::from_value(prices).unwrap(), sizes());
        let cost = Cost::of(&sizes[1], "nbg1", &prices).unwrap();
        assert_eq!(cost.words(), "EUR 4.15 a month (0.0100 an hour), its IPv4 address EUR 0.59 more; with VAT");
        assert!(Cost::of(&sizes[1], "mars1", &prices).is_none());
    }
}
