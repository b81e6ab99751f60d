"""The words of the generated catalogue: product types, attributes, options, brands and sentences.

A type takes three lines in `TYPES`: its name, category, path of product categories, prices and options; its styles; and
its own attributes, beside its category's in `SHARED`. Marks say how a sentence speaks of an attribute: `with natural
ingredients`, `for dry skin`, and without a mark `gluten free`.
"""

from __future__ import annotations

SHARED = {
    "beauty": "long lasting; cruelty free; paraben free; sulfate free; fragrance free; alcohol free; easy to use; "
    "dermatologist tested; with natural ingredients; with essential oils; with high quality; travel size",
    "electronics": "easy to use; easy to install; with high speed; with fast charging; plug and play; lightweight; "
    "heavy duty; water resistant; with high quality; portable; with a carrying case; with led indicator",
    "fashion": "machine washable; hand wash; lightweight; breathable; long lasting; with high quality; quick drying; "
    "for everyday wear; for gift giving; wrinkle free; stretchable; imported fabric",
    "garden": "easy to clean; easy to assemble; space saving; heavy duty; eco friendly; non slip; mid century; "
    "with solid wood; with stainless steel; for living room; for small spaces; ready to use",
    "grocery": "gluten free; non gmo; dairy free; sugar free; low sodium; kosher certified; usda organic; plant based; "
    "ready to eat; with no artificial colors; with natural flavors; individually wrapped; shelf stable",
}

TYPES = """
lip balm | beauty | Makeup › Lips › Lip Balms & Treatments | 4-18 | scent, pack
tinted, overnight, honey, medicated
with shea butter; with vitamin e; for dry lips; moisturizing
hair conditioner | beauty | Hair Care › Conditioners › Rinse Out Conditioners | 7-34 | scent, volume
deep repair, volume, daily, keratin
color safe; for damaged hair; for curly hair; with argan oil; with coconut oil
face moisturizer | beauty | Skin Care › Face › Creams & Moisturizers | 9-58 | volume, skin type
night, day, gel, collagen
oil free; anti aging; for sensitive skin; with hyaluronic acid; with green tea; non greasy
eyeshadow palette | beauty | Makeup › Eyes › Eyeshadow | 8-42 | color, makeup finish
shimmer, matte, pocket, professional
highly pigmented; for sensitive eyes; eco friendly; easy to blend
electric toothbrush | beauty | Oral Care › Toothbrushes › Electric Toothbrushes | 18-120 | color, pack
sonic, rechargeable, kids, whitening
with soft bristles; for sensitive teeth; with a two minute timer; waterproof; for sensitive gums
makeup brush set | beauty | Tools & Accessories › Makeup Brushes › Brush Sets | 8-45 | color, set size
kabuki, vegan, professional, travel
with synthetic bristles; easy to clean; with a storage pouch; non shedding
shampoo | beauty | Hair Care › Shampoos › Everyday Shampoos | 6-38 | scent, volume
clarifying, anti dandruff, daily, thickening
for oily hair; for dry scalp; with tea tree oil; color safe; for hair growth
nail polish | beauty | Foot, Hand & Nail Care › Nail Art › Nail Polish | 4-22 | color, pack
gel, quick dry, matte, glitter
non toxic; chip resistant; with high shine; for nail art
body lotion | beauty | Skin Care › Body › Lotions | 6-30 | scent, volume
whipped, firming, daily, oatmeal
with aloe vera; with shea butter; for dry skin; non greasy; for sensitive skin
hair clips | beauty | Hair Care › Accessories › Hair Clips | 4-16 | color, set size
claw, snap, pearl, banana
non slip; for thick hair; for fine hair; strong hold
bluetooth speaker | electronics | Portable Audio & Video › Portable Speakers › Bluetooth Speakers | 18-160 | color
outdoor, mini, party, waterproof
with stereo sound; with deep bass; hands free; with long battery life; dust proof
usb cable | electronics | Computers & Accessories › Cables › USB Cables | 5-26 | color, length, pack
braided, coiled, flat, right angle
gold plated; with nylon braiding; for data transfer; tangle free
wireless earbuds | electronics | Headphones › Earbud Headphones › Wireless Earbuds | 20-180 | color
sport, noise cancelling, compact, studio
with stereo sound; with a charging case; sweat proof; with touch control; for running
phone case | electronics | Cell Phones & Accessories › Cases › Basic Cases | 7-38 | color, phone model
slim, clear, wallet, rugged
with a screen protector; with wireless charging; shock proof; non slip; with a kickstand
hdmi cable | electronics | Television & Video › Accessories › HDMI Cables | 6-42 | color, length
ultra, flexible, certified, active
gold plated; with 4k resolution; with nylon braiding; for home theater
wall charger | electronics | Cell Phones & Accessories › Chargers › Wall Chargers | 8-48 | color, port count
compact, folding, travel, dual
with overheat protection; for travel; wall mountable; with usb c port
security camera | electronics | Security & Surveillance › Cameras › Bullet Cameras | 25-180 | color, storage
outdoor, indoor, dome, wireless
with night vision; with motion detection; with two way audio; weather proof; with 1080p hd
tablet stand | electronics | Computers & Accessories › Tablet Accessories › Stands | 10-44 | color, material
foldable, desktop, adjustable, swivel
non slip; with aluminum alloy; height adjustable; for desk use
camera tripod | electronics | Camera & Photo › Tripods › Complete Tripods | 18-110 | color, height
travel, flexible, compact, video
with carbon fiber; quick release; with a ball head; for outdoor use
gaming keyboard | electronics | Computers & Accessories › Keyboards › Gaming Keyboards | 24-140 | color, switch type
mechanical, compact, wireless, full size
with rgb backlight; ergonomic; spill resistant; with a wrist rest
men's t-shirt | fashion | Men › Shirts › T-Shirts | 9-38 | color, size
crewneck, v-neck, pocket, graphic
with short sleeves; with long sleeves; slim fit; loose fit; with polyester spandex; moisture wicking
women's dress | fashion | Women › Dresses › Casual | 16-78 | color, size
maxi, wrap, midi, sundress
with long sleeves; with pockets; with an elastic waist; for daily casual; floral print; sleeveless
running shoes | fashion | Women › Shoes › Athletic Running | 28-130 | color, shoe size
trail, road, cushioned, minimalist
with a rubber sole; with arch support; slip resistant; with memory foam; for wide feet
men's jeans | fashion | Men › Jeans › Relaxed | 20-88 | color, waist size
bootcut, tapered, carpenter, straight
slim fit; with a button closure; with an elastic waist; with cotton denim; regular fit
women's sandals | fashion | Women › Shoes › Sandals | 14-72 | color, shoe size
platform, wedge, strappy, slide
with a rubber sole; open toe; with an ankle strap; with memory foam; with arch support
hooded sweatshirt | fashion | Men › Active › Hoodies | 18-68 | color, size
pullover, zip up, fleece, oversized
with long sleeves; with a drawstring closure; with cotton spandex; with front pockets; loose fit
swimsuit | fashion | Women › Swimsuits & Cover Ups › One Pieces | 16-64 | color, size
ruffled, high waist, cutout, halter
tummy control; with removable pads; with polyester spandex; with adjustable straps
winter jacket | fashion | Women › Coats & Jackets › Down & Parkas | 34-160 | color, size
puffer, parka, quilted, cropped
water proof; with a fleece lining; with long sleeves; with a zipper closure; with faux fur
leggings | fashion | Women › Active › Leggings | 12-48 | color, size, length style
yoga, workout, thermal, compression
tummy control; with a high waist; with nylon spandex; with pockets; squat proof
wrist watch | fashion | Men › Watches › Wrist Watches | 24-160 | color, band
chronograph, dress, field, diver
water resistant; with stainless steel; with quartz movement; scratch resistant; with a date window
ankle socks | fashion | Men › Socks › Athletic Socks | 7-28 | color, size, pack
cushioned, low cut, compression, wool
moisture wicking; with arch support; odor resistant; with cotton spandex
pajama set | fashion | Women › Sleepwear › Sets | 18-62 | color, size
satin, flannel, button down, two piece
with long sleeves; with an elastic waist; with short sleeves; with a drawstring closure; soft touch
table lamp | garden | Lighting & Ceiling Fans › Lamps › Table Lamps | 20-120 | color, material
bedside, desk, tripod, touch
with a glass shade; dimmable; with usb ports; for bedroom; energy efficient
throw pillow covers | garden | Bedding › Decorative Pillows › Throw Pillow Covers | 8-36 | color, cover size
velvet, linen, boho, knitted
machine washable; with a hidden zipper; for sofa; super soft; double sided
storage ottoman | garden | Furniture › Living Room Furniture › Ottomans | 34-150 | color, furniture size
folding, tufted, bench, round
with faux leather; with memory foam; tool free assembly; with a hinged lid
coffee table | garden | Furniture › Living Room Furniture › Coffee Tables | 60-280 | color, shape
lift top, industrial, nesting, rustic
with storage shelves; with a metal frame; with tempered glass; scratch resistant
blackout curtains | garden | Home Decor › Window Treatments › Curtain Panels | 16-78 | color, curtain size
grommet, thermal, rod pocket, pleated
machine washable; for bedroom; with noise reduction; energy efficient; fade resistant
area rug | garden | Home Decor › Area Rugs › Rugs | 24-210 | color, rug size
shag, vintage, braided, washable
machine washable; stain resistant; for dining room; for bedroom; pet friendly; with a non slip backing
bar stools | garden | Furniture › Game & Recreation Room Furniture › Bar Stools | 54-260 | color, seat height
swivel, backless, counter, upholstered
with faux leather; height adjustable; with a metal frame; with a footrest; for dining room
wall art | garden | Home Decor › Artwork › Wall Art | 14-98 | theme, print size
canvas, framed, abstract, vintage
ready to hang; hand painted; for bedroom; with a wood frame; fade resistant
bed frame | garden | Furniture › Bedroom Furniture › Bed Frames | 80-340 | color, bed size
platform, upholstered, storage, canopy
no box spring needed; with a headboard; with a metal frame; with storage drawers; noise free
kitchen faucet | garden | Kitchen Fixtures › Kitchen Faucets › Pull Down | 44-190 | finish
pull down, commercial, touchless, single handle
lead free; with a brushed finish; rust resistant; easy to install
protein bars | grocery | Snack Foods › Bars › Protein Bars | 10-42 | flavor, pack
crunchy, chewy, layered, mini
high protein; keto friendly; low carb; with whey protein; with almond butter
green tea | grocery | Beverages › Tea › Green Tea | 6-34 | flavor, tea size
loose leaf, matcha, jasmine, decaf
caffeine free; with antioxidants; hand picked; certified organic
ground coffee | grocery | Beverages › Coffee › Ground Coffee | 8-44 | roast, weight
single origin, house, cold brew, espresso
fair trade; low acid; caffeine free; freshly roasted; rainforest certified
trail mix | grocery | Snack Foods › Nuts & Seeds › Trail Mixes | 8-38 | flavor, weight
tropical, mountain, dark chocolate, nut free
high protein; with dried fruit; high fiber; with no added sugar; resealable bag
pasta sauce | grocery | Sauces › Pasta Sauces › Tomato | 5-28 | flavor, jar size
marinara, arrabbiata, alfredo, vodka
with no added sugar; low carb; fat free; slow cooked; with extra virgin olive oil
granola | grocery | Breakfast Foods › Cereals › Granola | 6-32 | flavor, weight
clusters, honey, grain free, maple
high fiber; with whole grain; grain free; low sugar; nut free
beef jerky | grocery | Meat Snacks › Jerky › Beef | 7-40 | flavor, weight
smoked, thick cut, old fashioned, tender
high protein; grass fed; low fat; keto friendly; with no preservatives
hot sauce | grocery | Sauces › Hot Sauce › Bottled | 5-26 | heat, jar size
habanero, smoky, garlic, fermented
fat free; low carb; small batch; with real peppers; vegan friendly
gummy candy | grocery | Snack Foods › Candy › Gummies | 5-30 | flavor, weight
sour, bear, vitamin, fruit slice
fat free; for party favors; with real fruit juice; nut free; resealable bag
sparkling water | grocery | Beverages › Water › Sparkling | 6-30 | flavor, drink pack
unsweetened, mineral, caffeinated, fruit
zero calories; caffeine free; with no sweeteners; bpa free can
"""

OPTIONS = {
    "color": "black, white, navy blue, wine red, olive green, light grey, rose gold, purple, coral pink, teal, "
    "mustard yellow, brown, silver, beige, burnt orange, turquoise",
    "size": "x-small, small, medium, large, x-large, xx-large, 3x-large",
    "shoe size": "5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 9.5, 10, 11",
    "waist size": "28w x 30l, 30w x 30l, 30w x 32l, 32w x 30l, 32w x 32l, 34w x 32l, 36w x 32l, 38w x 34l",
    "scent": "lavender, vanilla, coconut, unscented, eucalyptus, peppermint, cherry blossom, citrus, sandalwood",
    "flavor": "chocolate, vanilla bean, peanut butter, strawberry, salted caramel, lemon, original, cinnamon, "
    "blueberry, spicy jalapeno, sea salt, mango",
    "pack": "1 pack, 2 pack, 3 pack, 4 pack, 6 pack, 12 pack",
    "drink pack": "pack of 8, pack of 12, pack of 18, pack of 24",
    "set size": "3 piece set, 5 piece set, 8 piece set, 10 piece set, 15 piece set",
    "volume": "2 fl oz, 4 fl oz, 8 fl oz, 12 fl oz, 16 fl oz, 33.8 fl oz",
    "weight": "3 ounce, 6 ounce, 8 ounce, 12 ounce, 1 pound, 2 pound, 5 pound",
    "length": "3.3 feet, 6.6 feet, 10 feet, 15 feet, 25 feet, 50 feet",
    "length style": "ankle length, capri length, full length",
    "material": "bamboo, brushed aluminum, ceramic, walnut wood, acrylic, wrought iron",
    "finish": "matte finish, polished chrome, brushed nickel, oil rubbed bronze, satin finish",
    "makeup finish": "matte look, shimmer look, satin look, metallic look, glossy look",
    "skin type": "oily skin, combination skin, mature skin, all skin types",
    "phone model": "iphone 12, iphone 13 pro, iphone 14, galaxy s21, galaxy s22 ultra, pixel 6, pixel 7 pro",
    "port count": "1 port, 2 port, 3 port, 4 port, 6 port",
    "storage": "32gb, 64gb, 128gb, 256gb",
    "height": "42 inch, 50 inch, 60 inch, 72 inch",
    "switch type": "blue switches, red switches, brown switches, silent switches",
    "band": "leather band, mesh band, nylon band, silicone band",
    "cover size": "16 x 16 inch, 18 x 18 inch, 20 x 20 inch, 24 x 24 inch, 12 x 20 inch",
    "furniture size": "15 inch wide, 24 inch wide, 30 inch wide, 43 inch wide",
    "shape": "round top, oval top, square top, rectangular top",
    "curtain size": "42w x 63l, 42w x 84l, 52w x 63l, 52w x 84l, 52w x 95l, 52w x 108l",
    "rug size": "2 x 3 ft, 3 x 5 ft, 4 x 6 ft, 5 x 8 ft, 8 x 10 ft, 9 x 12 ft",
    "seat height": "24 inch seat, 26 inch seat, 29 inch seat, 30 inch seat",
    "theme": "mountain sunrise, ocean waves, city skyline, autumn forest, wild horses, blooming poppies",
    "print size": "8 x 10 print, 12 x 16 print, 16 x 24 print, 24 x 36 print, 30 x 40 print",
    "bed size": "twin, full, queen, king, california king",
    "tea size": "20 count, 40 count, 80 count, 100 count",
    "roast": "light roast, medium roast, dark roast, french roast",
    "jar size": "5 oz jar, 12 oz jar, 16 oz jar, 24 oz jar",
    "heat": "mild heat, medium heat, hot heat, extra hot heat",
}

UNCOUNTED = "tea coffee mix sauce granola jerky candy water art"
BRAND_STARTS = "Al Bren Cor Del El Fen Gal Har Ist Jor Kel Lum Mor Nor Or Pel Quin Ros Sel Tor Ul Ver Wil Yar Zen"
BRAND_ENDS = "bridge dale field ford gate haven hurst leaf lyn mont nova pine quest ridge stone ton vale wick wood"

SENTENCES = (
    "{Attribute}: this {type} does what it says.",
    "We made our {type} {attribute}, because our customers asked for it.",
    "You will like that it is {attribute}.",
    "{Attribute}, and tested before it leaves our warehouse.",
    "A {style} {type}, {attribute}, for you or as a present.",
)
CLOSINGS = (
    "If anything is wrong with your order, write to us and we will answer within a day.",
    "Colors may look different on your screen.",
    "Ships in a recyclable box.",
    "Please check the measurements before you order.",
    "Keep away from direct sunlight and store in a dry place.",
)
PRAISE = {
    5: ("Just what I wanted", "This {type} is better than the one I had. I have ordered another."),
    4: ("Good for the price", "Does its job. The {type} came two days late, else five stars."),
    3: ("It is fine", "The {type} is neither good nor bad. It looks smaller than in the picture."),
    2: ("Not as described", "I expected more of a {style} {type}. It may work for you."),
    1: ("Sent it back", "Broken when it arrived. The seller did refund it."),
}

OPENINGS = (
    "i am looking for",
    "im looking for",
    "i need",
    "i want",
    "find me",
    "show me",
    "can you find me",
    "i would like",
    "i want to buy",
    "get me",
    "looking for",
    "please help me find",
)
FOLLOW_UPS = ("i would like it in {}", "please choose {}", "also choose {}", "pick the one in {}", "it should be {}")
PARAPHRASES = {
    "machine washable": "that i can wash in the machine",
    "gluten free": "without gluten",
    "dairy free": "without dairy",
    "sugar free": "without sugar",
    "paraben free": "without parabens",
    "sulfate free": "without sulfates",
    "fragrance free": "without fragrance",
    "alcohol free": "without alcohol",
    "easy to clean": "that cleans easily",
    "easy to use": "that anybody can use easily",
    "easy to install": "that installs easily",
    "easy to assemble": "that assembles easily",
    "long lasting": "that lasts long",
    "space saving": "that saves space",
    "non slip": "that does not slip",
    "caffeine free": "without caffeine",
    "lead free": "without lead",
}
"""How people say some attributes; the reward knows the attribute's own words alone."""
