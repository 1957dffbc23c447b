"""Scenes of the caption grammar: who is where and does what; see ``words``."""

# (cast, places, activities, outdoors)
SCENES: tuple[tuple[str, str, str, bool], ...] = (
    (
        "cook;grandmother;mother;father;{adult};{kid}",
        "in the kitchen;in a small kitchen;at the kitchen counter;by the stove",
        """cut: {vegetable+}; a loaf of bread; some cheese; {fruit}
        wash: the dishes; {fruit+}; {vegetable+}; a big pot
        bake: {pastry}; a loaf of bread; {pastry+}
        stir: a pot of soup; the hot sauce; a bowl of dough
        pour: milk into a glass; tea into a cup; oil into a pan
        peel: {fruit}; {vegetable+}
        fry: some eggs; a fish; some bacon; {vegetable+}""",
        False,
    ),
    (
        "waiter;waitress;{adult};{adult};{kid};businessman",
        "in a restaurant;in a crowded cafe;at a small table;on the terrace",
        """drink: a cup of coffee; a glass of wine; hot tea; orange juice; lemonade
        eat: {pastry}; a plate of pasta; a bowl of soup; a sandwich; {fruit}; ice cream
        order: a cold beer; {pastry}; a salad; a cup of tea
        carry: a tray of glasses; two plates; a bottle of water
        read: the menu; {reading}
        pay for: the meal; two coffees""",
        False,
    ),
    (
        "merchant;farmer;{adult};{adult};grandmother;butcher",
        "at the market;at a busy market;in front of a market stall;on the square",
        """sell: {fruit+}; {vegetable+}; {flower+}; fresh fish; old books; carpets
        buy: {fruit+}; {vegetable+}; {flower+}; some honey; a pair of shoes; bread
        weigh: {fruit+}; {vegetable+}; a large fish
        carry: {load}; a basket of {fruit*}
        taste: some cheese; {fruit}; the honey""",
        True,
    ),
    (
        "{adult};{adult};{kid};policeman;postman;businessman;cyclist",
        "in the street;on the sidewalk;at the corner;on the bridge;"
        "in front of the bank;in the old town",
        """ride: {ride}; {ride}; {ride}
        push: a stroller; a cart; {ride}; a wheelchair
        carry: {load}; {load}; {flower+}
        walk: {dog}; slowly; hand in hand with a child
        wait for: the bus; a taxi; a friend
        wash: {car}; the windows
        sweep: the pavement; the fallen leaves""",
        True,
    ),
    (
        "{adult};{adult};{kid};runner;grandfather",
        "in the park;on a park bench;under {tree};near the fountain;on the grass",
        """feed: the pigeons; the ducks; {citybird}; a squirrel
        read: {reading}; {reading}
        play: chess; cards; {instrument}
        throw: a frisbee; {toy}; a stick for the dog
        walk: {dog}; {dog}
        eat: ice cream; a sandwich; {fruit}
        rest; jog; sleep""",
        True,
    ),
    (
        "{kid};{kid};{kid};mother;father",
        "on the playground;in the yard;in front of the house;behind the school",
        """play with: {toy}; {toy}; {toy}; {dog}
        jump over: a rope; a puddle; a low fence
        climb: {tree}; a ladder; the wall
        chase: {dog}; {toy}; a butterfly
        build: a snowman; a small hut; a tower of blocks
        fly: a kite; {color kite}; a paper plane
        kick: a soccer ball; {toy}
        swing; laugh; dance""",
        True,
    ),
    (
        "{kid};{adult};{adult};lifeguard;surfer;swimmer",
        "on the beach;at the seaside;in the warm sand;by the sea",
        """build: a sandcastle; a small fire
        collect: shells; colorful stones
        carry: a surfboard; a towel; a beach umbrella
        fly: {color kite}; a kite
        watch: the waves; the sunset; {boat}
        eat: ice cream; {fruit}; a slice of melon
        swim; sunbathe; walk barefoot""",
        True,
    ),
    (
        "fisherman;sailor;captain;{adult};{kid}",
        "in the harbor;on the pier;on the lake;at the dock;on the river bank",
        """mend: a fishing net; an old sail
        catch: a large fish; a crab; some fish
        paint: {boat}; {boat}
        row: {color boat}; a small boat; a wooden boat
        sail: a small boat; {color boat}
        tie: a rope to a post; a knot
        unload: crates of fish; barrels; {boat}
        wait for: the ferry; high tide""",
        True,
    ),
    (
        "farmer;farmer;{adult};{kid};shepherd",
        "on the farm;in the field;next to the barn;behind the fence;in the meadow",
        """feed: the cows; the chickens; {herd+}; {horse}; {poultry+}
        milk: {color cow}; a goat; the cows
        drive: {color tractor}; an old truck
        harvest: wheat; corn; {vegetable+}
        pick: {fruit+}; {flower+}; cotton
        brush: {horse}; {horse}
        ride: {horse}; {horse}
        repair: the fence; {color tractor}; the roof""",
        True,
    ),
    (
        "gardener;grandfather;grandmother;{adult};{kid}",
        "in the garden;behind the house;in the backyard;in the greenhouse",
        """plant: {flower+}; {tree}; {vegetable+}; a row of beans
        water: the flowers; the lawn; {flower+}; the tomatoes
        pick: {fruit+}; {flower+}; {vegetable+}
        dig: a deep hole; with a shovel
        rake: the leaves; the lawn
        cut: the grass; a hedge; {flower+}
        paint: a fence; {color fence}; the shed""",
        True,
    ),
    (
        "hiker;climber;{adult};{adult};hunter;scout",
        "in the mountains;in the forest;on a narrow path;near a waterfall;on a hill",
        """climb: a steep rock; a high mountain; {tree}
        carry: {load}; a tent; firewood
        cross: a shallow stream; a wooden bridge; a glacier
        photograph: {forest}; the valley; a waterfall; {songbird}
        gather: mushrooms; berries; firewood
        look at: a map; the stars; the valley
        camp; rest; hike""",
        True,
    ),
    (
        "teacher;student;student;professor;{kid}",
        "in the classroom;at school;in front of the blackboard;at a desk;"
        "in the library",
        """read: {reading}; {reading}; a poem
        write: a letter; a poem; an essay; numbers on the board
        draw: a map; {forest}; {building}; a picture of {safari}
        explain: a problem; a chart; an experiment
        solve: a puzzle; an equation
        listen to: a story; the teacher; music
        study: history; chemistry; for an exam""",
        False,
    ),
    (
        "secretary;manager;engineer;{adult};businessman;businesswoman",
        "in the office;at a desk;in a meeting room;by the window",
        """type on: a laptop; a keyboard; a computer
        write: a report; a letter; an email
        read: {reading}; a contract; a long report
        answer: the phone; a question
        sign: a contract; some papers
        repair: a printer; a computer
        talk on: the phone""",
        False,
    ),
    (
        "doctor;nurse;nurse;surgeon;dentist;patient",
        "in the hospital;in a clinic;in the waiting room;beside the bed",
        """examine: {kid}; a broken leg; a patient; {adult}
        measure: a fever; blood pressure
        bandage: a knee; a broken arm; a hand
        push: a wheelchair; an empty bed
        comfort: {kid}; a crying baby; {adult}
        write: a prescription; a report""",
        False,
    ),
    (
        "traveler;{adult};{adult};conductor;pilot;soldier",
        "at the station;on the platform;at the airport;in the train;in a waiting hall",
        """carry: {load}; {load}; {load}
        wait for: the train; a flight; a friend
        check: a ticket; a passport; the timetable
        pull: a suitcase; {color suitcase}
        say goodbye to: {adult}; a friend; {kid}
        read: {reading}; {reading}
        sleep; yawn""",
        False,
    ),
    (
        "mechanic;carpenter;worker;blacksmith;electrician;{adult}",
        "in the workshop;in a garage;in a factory;at the workbench",
        """repair: {car}; {ride}; an engine; a clock; a chair
        build: a table; a wooden boat; a bookshelf; a cabinet
        hold: {tool}; {tool}; {tool}
        paint: a chair; {color door}; a cupboard
        saw: a board; a log
        weld: a pipe; a metal frame
        sharpen: a knife; an axe""",
        False,
    ),
    (
        "musician;singer;dancer;{adult};pianist;drummer",
        "on the stage;at a concert;in a dark club;in front of a large crowd",
        """play: {instrument}; {instrument}; {instrument}; {instrument}
        sing: a song; a sad song; into a microphone
        tune: {instrument}; {instrument}
        dance; bow; clap""",
        False,
    ),
    (
        "player;player;athlete;coach;runner;{kid}",
        "in the stadium;on the field;at the gym;on the tennis court;on the track",
        """throw: a ball; a javelin; {color ball}
        catch: a ball; {color ball}; a baseball
        hit: a tennis ball; a baseball; the ball with a racket
        kick: a soccer ball; the ball
        win: a race; a medal; a trophy
        lift: a heavy weight; a trophy
        jump over: a hurdle; a bar
        run; stretch; train""",
        True,
    ),
    (
        "skier;snowboarder;skater;{kid};{adult}",
        "in the snow;on a snowy slope;on the frozen lake;at the ski resort",
        """pull: {color sled}; a sled
        throw: snowballs; a snowball
        build: a snowman; an igloo
        shovel: snow; the driveway
        ski; skate; slide; fall""",
        True,
    ),
    (
        "{adult};{adult};grandfather;grandmother;{kid};father",
        "in the living room;on the sofa;by the fireplace;in an armchair;at home",
        """watch: television; a movie; a soccer game; cartoons
        read: {reading}; {reading}; a fairy tale
        play: {instrument}; a video game; chess; cards
        knit: a sweater; {color scarf}; a pair of socks
        hold: {cat}; a baby; {cat}
        listen to: the radio; music
        nap; yawn""",
        False,
    ),
    (
        "{adult};mother;father;{kid};maid",
        "in the bedroom;in the bathroom;in front of the mirror;in the hotel room",
        """make: the bed; a phone call
        brush: long hair; {dog}
        wash: a baby; {dog}; {color shirt}
        fold: clothes; towels; {color blanket}
        iron: {color shirt}; a dress
        pack: a suitcase; {load}
        clean: the window; the floor; a mirror""",
        False,
    ),
    (
        "artist;painter;sculptor;photographer;tourist;guard",
        "in the museum;in a gallery;in the studio;in a bright hall",
        """paint: a portrait; a landscape; {flower+}; {building}; {boat}
        look at: {picture}; a statue; {picture}; a skeleton of a dinosaur
        photograph: a model; {picture}; a statue
        carve: a statue; a wooden mask
        draw: {horse}; {cat}; a tower; a bowl of {fruit*}
        hang: {picture}; {picture}""",
        False,
    ),
    (
        "zookeeper;{kid};{kid};{adult};tourist;student",
        "at the zoo;in the wildlife park;behind the glass;near the cage",
        """feed: {safari}; {sea}; {songbird}; {safari}
        watch: {safari}; {safari}; {sea}; {songbird}
        photograph: {safari}; {safari}; {songbird}
        point at: {safari}; {safari}; {insect}
        draw: {safari}; {safari}""",
        True,
    ),
    (
        "worker;builder;engineer;painter;roofer;firefighter",
        "at a construction site;behind a high fence;beside {building};"
        "in front of {building}",
        """carry: {tool}; bricks; {tool}; a long pipe
        climb: a ladder; a tall crane
        build: a wall; a bridge; a house
        paint: the wall; {color door}; the gate
        drive: a bulldozer; {color truck}; a crane
        dig: a trench; a deep hole
        inspect: {building}; the cables""",
        True,
    ),
    (
        "{adult};{adult};{kid};clown;clown;magician",
        "at a party;at the wedding;at the festival;in a circus tent",
        """cut: a large cake; the birthday cake
        hold: {color balloon}; {flower+}; a glass of wine
        open: a present; a bottle of champagne
        juggle: {color+ ball}; {fruit+}; torches
        blow out: the candles
        throw: confetti; rice; {flower+}
        dance; laugh; sing; clap""",
        True,
    ),
)
