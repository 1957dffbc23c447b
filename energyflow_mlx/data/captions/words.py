"""Word tables of the caption grammar: nouns by kind, scenes, animals, still lifes.

Nothing here is computed. Lists are ``;``-separated. In a phrase, ``{fruit}`` stands
for one noun of that kind with its article ("a ripe pear"), ``{fruit+}`` for several
("three pears"), ``{fruit*}`` for several without a number ("ripe pears") and
``{color kite}`` for "a red kite". An activity line is
``verb: object; object`` or a row of bare verbs.
All sentences of the grammar are this project's own.
"""

COLORS = "red;blue;green;yellow;white;black;brown;gray;orange;pink;purple"

# kind -> (nouns, adjectives)
KINDS: dict[str, tuple[str, str]] = {
    "adult": (
        "man;woman;man;woman;lady;tourist;neighbor;couple",
        "young;old;tall;smiling;elderly;tired;cheerful",
    ),
    "kid": ("boy;girl;boy;girl;child;toddler", "little;young;small;happy;curious;shy"),
    "fruit": (
        "apple;pear;orange;peach;lemon;banana;plum;melon;strawberry;cherry;grape",
        "ripe;fresh;sweet;juicy",
    ),
    "vegetable": (
        "carrot;onion;potato;tomato;cabbage;pepper;cucumber;pumpkin;mushroom",
        "fresh;large;small;raw",
    ),
    "pastry": ("cake;pie;cookie;pancake;muffin;pizza", "small;warm;sweet;delicious"),
    "flower": ("rose;tulip;sunflower;daisy;lily", "red;white;yellow;pink;purple;wild"),
    "instrument": (
        "guitar;violin;piano;flute;trumpet;accordion;drum;cello;banjo;saxophone;harp",
        "old;new;small",
    ),
    "toy": (
        "ball;doll;kite;balloon;toy car;toy train;teddy bear",
        f"big;small;{COLORS}",
    ),
    "reading": ("book;newspaper;magazine;letter;map;comic", "old;new;long"),
    "tool": ("hammer;saw;shovel;ladder;rake;broom;axe;drill;wrench", "heavy;old;new"),
    "load": (
        "box;basket;bag;suitcase;bucket;backpack;crate;sack;parcel",
        "heavy;large;small;full;empty",
    ),
    "ride": ("bicycle;motorcycle;scooter;skateboard", f"new;old;{COLORS}"),
    "car": ("car;van;truck;bus;taxi", f"old;new;small;{COLORS}"),
    "boat": (
        "boat;canoe;sailboat;ferry;ship;raft;kayak",
        "small;large;wooden;white;old",
    ),
    "building": (
        "house;church;castle;tower;hotel;cottage;barn;lighthouse;windmill;museum",
        "old;tall;white;small;brick;stone;ruined",
    ),
    "tree": ("tree;oak;pine;palm tree;apple tree;willow", "tall;old;bare;green;dead"),
    "picture": (
        "painting;photograph;portrait;poster;drawing",
        "old;large;small;famous",
    ),
    "dog": ("dog;dog;puppy", "brown;black;white;small;large;wet;playful"),
    "cat": ("cat;cat;kitten", "black;white;gray;orange;sleepy;fat"),
    "horse": ("horse;pony;donkey", "brown;white;black;young"),
    "herd": ("cow;sheep;goat;pig;calf;lamb", "brown;white;black;young;fat"),
    "poultry": ("hen;goose;turkey;rooster;chicken", "white;brown;black;fat"),
    "waterbird": ("duck;swan;goose;heron;pelican", "white;gray;young;large"),
    "citybird": ("pigeon;sparrow;crow;blackbird;robin", "small;gray;black;hungry"),
    "songbird": ("parrot;owl;woodpecker;eagle;hawk", "large;colorful;brown;old"),
    "safari": (
        "elephant;giraffe;zebra;lion;camel;monkey;rhino;hippo;tiger;leopard",
        "large;young;thirsty;hungry;old",
    ),
    "forest": (
        "deer;fox;bear;wolf;rabbit;squirrel;hedgehog;badger",
        "brown;young;gray;small;hungry",
    ),
    "sea": ("dolphin;whale;seal;shark;turtle;penguin", "large;young;gray;small"),
    "insect": ("butterfly;bee;dragonfly;beetle;ladybug", "small;large;colorful;yellow"),
}

CLOTHES = "jacket;coat;sweater;shirt;hat;cap;scarf;raincoat;vest;apron;uniform"
WOMENS_CLOTHES = "dress;skirt;blouse"
CLOTHES_COLORS = f"{COLORS};striped;leather;woolen"
PLURAL_CLOTHES = "blue jeans;black boots;white gloves;red shoes;dark sunglasses;shorts"
FEATURES = "a backpack;glasses;an umbrella;long hair;a walking stick;a small bag"
MALE_FEATURES = "a beard;a long gray beard;a mustache"

NUMBERS = "two;three;four;five;six;several;some;many"
OUTDOOR_TIMES = (
    "in the rain;on a sunny day;at sunset;in the morning;at night;in winter;"
    "on a cloudy afternoon;at dawn;in the snow;on a windy day"
)
INDOOR_TIMES = "in the morning;in the evening;at night;after lunch;on a rainy day"

# (animal kind, places, activities)
ANIMALS: tuple[tuple[str, str, str], ...] = (
    (
        "dog",
        "in the park;on the beach;in the snow;in the yard;beside the road;on the porch",
        """chase: {toy}; {cat}; a rabbit; a squirrel; a car
        carry: a stick; {color ball}; a shoe; a newspaper
        bark at: {cat}; the mailman; a bicycle; {herd}
        chew on: a bone; {color shoe}; a stick
        catch: a frisbee; {color ball}
        run; sleep; swim; dig; jump; sit""",
    ),
    (
        "cat",
        "on the sofa;on the windowsill;under the table;on the roof;on the stairs;"
        "in a cardboard box",
        """watch: {citybird}; a fish; the rain; {dog}
        play with: a ball of yarn; {color ribbon}; a toy mouse
        drink: milk; water from a bowl
        chase: a mouse; a butterfly; {citybird}
        sleep; sit; stretch; lie; hide""",
    ),
    (
        "horse",
        "in the field;behind the fence;in the stable;in the meadow;on the beach",
        """eat: hay; grass; {fruit}; a carrot
        pull: a cart; a plow; an old carriage; a sled
        jump over: a fence; a ditch
        gallop; graze; stand; trot; drink""",
    ),
    (
        "herd",
        "in the meadow;on a green hill;behind the barn;near the river;on the farm",
        """eat: grass; hay; some leaves; corn
        drink: water from a trough; from a stream
        follow: the farmer; {dog}; a narrow path
        graze; rest; stand; lie""",
    ),
    (
        "poultry",
        "in the farmyard;next to the barn;in front of the henhouse;on the farm",
        """peck at: corn; the ground; bread crumbs
        chase: {cat}; {dog}; {kid}
        sit on: some eggs; a nest; a fence
        walk; sleep; run""",
    ),
    (
        "waterbird",
        "on the pond;on the lake;near the shore;in the reeds;on the river",
        """catch: a fish; a frog; a small fish
        follow: {boat}; {boat}
        clean: wet feathers
        swim; float; rest; dive; land""",
    ),
    (
        "citybird",
        "on the roof;on a wire;in the square;on a bench;in {tree};on a statue",
        """eat: bread crumbs; seeds; a worm; berries
        build: a nest; a small nest
        drink from: a puddle; a fountain
        sit; sing; land; hop""",
    ),
    (
        "songbird",
        "on a branch;in the jungle;on a rock;in {tree};in the forest",
        """catch: a mouse; a snake; a fish
        hold: a nut; a mouse; a small fish
        watch: a mouse; {forest}; the valley
        sit; land; rest; sleep""",
    ),
    (
        "safari",
        "at the zoo;in the tall grass;near the water hole;on the savanna;in the mud",
        """drink from: a river; a pool; a lake
        eat: leaves; {fruit+}; a branch; grass
        chase: {safari}; an antelope; a bird
        lead: the herd; the young
        walk; sleep; bathe; rest; stand""",
    ),
    (
        "forest",
        "in the forest;between the trees;in the snow;at the edge of the woods;"
        "near a stream",
        """eat: berries; a nut; mushrooms; grass; leaves
        hunt: a rabbit; a mouse; a salmon
        climb: {tree}; a rock; a fence
        watch: a hunter; {songbird}; {forest}
        run; hide; sleep; dig; rest""",
    ),
    (
        "sea",
        "in the sea;near the ship;in the blue water;close to the shore;off the coast",
        """catch: a fish; a squid; a small fish
        follow: {boat}; {boat}
        jump over: the waves
        play with: {color ball}; a fish
        swim; dive; float; play""",
    ),
    (
        "insect",
        "in the garden;in the greenhouse;in the meadow;on the window;near the pond",
        """land on: {flower}; a leaf; a hand; {flower}
        collect: nectar; pollen
        crawl over: a stone; {fruit}; {vegetable}
        fly; rest; crawl""",
    ),
)
PACKS = {
    "herd": "herd",
    "horse": "herd",
    "safari": "herd",
    "citybird": "flock",
    "poultry": "flock",
    "waterbird": "flock",
    "dog": "pack",
    "sea": "group",
    "forest": "group",
    "insect": "swarm",
}

# (subjects, ((verbs, ways), ...)): moving and standing have their own ways
TRAFFIC: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "{car};{car};{car}",
        (
            (
                "drive",
                "past {building};on the highway;across the bridge;along the coast;"
                "through a tunnel;through heavy traffic;on a country road;down a hill",
            ),
            (
                "park;stop;wait",
                "in front of {building};at a red light;under {tree};near {building};"
                "beside the road;at the gas station;behind {car}",
            ),
        ),
    ),
    (
        "{color train};a long train;an old steam train;{color tram}",
        (
            (
                "pass;travel",
                "through a tunnel;across a high bridge;through the valley;"
                "between the hills;along the river;through the city",
            ),
            ("stop;arrive;wait", "at the station;near {building};at the border"),
        ),
    ),
    (
        "{boat};{boat};{boat}",
        (
            (
                "sail;float",
                "on the calm sea;past {building};down the river;under a bridge;"
                "through a storm;across a quiet lake;towards the island",
            ),
            ("lie;wait", "in the harbor;near {building};on the shore;at the dock"),
            ("sink", "in a storm;near the rocks;in the harbor"),
        ),
    ),
    (
        "a small plane;a helicopter;a hot air balloon;a large jet;two planes",
        (
            (
                "fly;circle",
                "over the city;above the clouds;over {building};over the mountains;"
                "in the blue sky;over a lake;above the airport",
            ),
            ("land", "on the runway;in a field;on the roof of {building};on an island"),
        ),
    ),
)

# (things, postures, spots)
STILL_LIFES: tuple[tuple[str, str, str], ...] = (
    (
        "a bowl of {fruit*};a basket of {vegetable*};a vase of {flower*};"
        "a cup of coffee;a bottle of wine;{pastry};a plate of {pastry*};a candle;"
        "a jar of honey;a glass of milk;{flower+};a loaf of bread;a birthday cake",
        "stand;be",
        "on the wooden table;on the kitchen counter;on a white tablecloth;"
        "next to the window;on a tray;beside {reading};in front of the mirror",
    ),
    (
        "{reading};{reading};a laptop;a pair of glasses;a pencil;a key;a wallet;"
        "an old camera;a phone;{tool};{reading+};a knife;{color scarf}",
        "lie;be",
        "on the desk;on the floor;under the bed;on a chair;next to a lamp;"
        "in an open drawer;on top of {load};between two books",
    ),
    (
        "{picture};a clock;a mirror;{color coat};{color curtain};a lamp;"
        "a map;a calendar",
        "hang",
        "on the wall;above the bed;over the fireplace;next to the door;"
        "in the hallway;behind the desk",
    ),
    (
        "{load};{load};{ride};{load+};a wooden chair;{color sofa};a broken chair",
        "be;stand",
        "in the corner;beside the door;against the wall;in the hallway;"
        "near {building};under the stairs;in the garage",
    ),
    (
        "{toy};{toy+};{color umbrella};{tool};{color glove};{instrument}",
        "lie;be",
        "on the carpet;under the stairs;behind the door;on the lawn;"
        "next to {load};under {tree};on the back seat",
    ),
)

# (subjects, predicates that begin with a verb in its base form)
VIEWS: tuple[tuple[str, str], ...] = (
    (
        "snow;fresh snow;thick fog",
        "cover the roof of {building};cover the mountains;lie over the quiet village;"
        "lie on the road;cover {tree};hide {building}",
    ),
    (
        "a narrow path;a dusty road;a long road;a steep path",
        "lead to {building};lead through the forest;cross the valley;"
        "run along the river;lead over the hills;end at {tree}",
    ),
    (
        "dark clouds;white clouds;heavy clouds",
        "hang over {building};pass over the mountains;cover the sky;"
        "gather over the sea",
    ),
    (
        "{building};{building};{building};{building+}",
        "stand on a hill;stand beside the lake;stand near {tree};overlook the sea;"
        "stand in a field of {flower*};stand at the end of the road;"
        "stand between two hills;overlook the harbor",
    ),
    (
        "{tree};{tree+}",
        "grow beside {building};stand in the field;grow along the river;"
        "bend in the strong wind;grow in front of {building};stand on top of a hill",
    ),
    (
        "{flower+};{flower+}",
        "grow beside {building};bloom in the garden;grow in a clay pot;"
        "bloom in spring;grow under {tree};cover the meadow",
    ),
    (
        "the moon;the sun;the full moon",
        "shine over the lake;rise over {building};appear behind the clouds;"
        "set behind the hills;shine through the window",
    ),
    (
        "a rainbow;a bright star;lightning",
        "appear above {building};appear over the sea;light up the sky;"
        "appear behind the mountains",
    ),
    (
        "a river;a small stream;a waterfall",
        "flow past {building};flow through the valley;flow under an old bridge;"
        "run between the rocks;freeze in the cold winter",
    ),
)

MEETINGS = (
    "talk to;wave to;smile at;help;teach;hug;listen to;photograph;follow;argue with;"
    "point at;whisper to;sit next to;walk behind;dance with;laugh with;shout at;"
    "wait for;look at;thank"
)
PETTING = {
    "dog": "stroke;wash;brush;walk;call;hug;play with;feed;train",
    "cat": "stroke;hold;feed;play with;carry;look for",
    "horse": "lead;ride;brush;feed;saddle;wash",
    "herd": "feed;lead;count;follow;photograph;sell",
    "poultry": "feed;catch;hold;chase",
    "waterbird": "feed;watch;photograph;paint",
    "safari": "watch;photograph;draw;point at",
    "forest": "watch;photograph;follow;feed",
    "insect": "catch;watch;photograph;look at",
}
