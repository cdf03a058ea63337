"""The phrase banks of AdWorld: selling points of five kinds, and the nouns of a shop, in English and Chinese.

Every entry is a pair (English, Chinese) of the same meaning. English selling points are noun phrases of two
to four words in lower case, Chinese ones have four to eight characters. A phrase belongs to one kind only,
never holds another phrase, and makes no absolute or medical claim.
"""

from typing import Final, NamedTuple

Pair = tuple[str, str]
Bank = dict[str, tuple[Pair, ...]]

# Fit for every product.
GENERAL: Final[Bank] = {
    "value": (
        ("thirty-day returns", "三十天退换"),
        ("fair everyday price", "日常实惠价"),
        ("free home delivery", "免费送货上门"),
        ("member bonus points", "会员双倍积分"),
        ("second-piece discount", "第二件优惠"),
        ("price-match promise", "买贵退差价"),
        ("returning-customer voucher", "老客回购券"),
        ("bundle savings offer", "组合购更省"),
    ),
    "quality": (
        ("strict batch testing", "逐批严格质检"),
        ("carefully chosen materials", "精挑细选用料"),
        ("solid hand feel", "手感扎实厚重"),
        ("verified supply chain", "供应链可查验"),
        ("double-checked workmanship", "双重检验做工"),
        ("skilled hand finishing", "熟练手工收尾"),
        ("traceable raw materials", "原料来源可追溯"),
        ("tight production tolerances", "生产公差精细"),
    ),
    "care": (
        ("easy daily upkeep", "日常打理省心"),
        ("quick-wipe surface", "表面一擦即净"),
        ("illustrated care guide", "图解保养指南"),
        ("low-odour materials", "低气味材质"),
        ("stain-shy coating", "不易沾污涂层"),
        ("responsive after-sales help", "售后贴心响应"),
        ("recyclable outer box", "外盒可回收"),
        ("clean storage pouch", "洁净收纳袋"),
    ),
    "design": (
        ("clean minimal lines", "简洁利落线条"),
        ("soft rounded edges", "圆润柔和边角"),
        ("well-balanced proportions", "比例协调匀称"),
        ("timeless quiet look", "耐看低调外观"),
        ("subtle matte touch", "细腻哑光质感"),
        ("gift-ready presentation", "礼盒级包装设计"),
        ("nordic-style silhouette", "北欧风轮廓"),
        ("small logo detail", "精致小标点缀"),
    ),
    "convenience": (
        ("ready-to-use condition", "开箱即用"),
        ("light overall weight", "整体轻巧省力"),
        ("space-saving size", "小巧不占地"),
        ("simple quick start", "上手简单快捷"),
        ("next-day dispatch", "次日快速发货"),
        ("easy-open packaging", "包装一撕即开"),
        ("clear printed instructions", "说明清晰易懂"),
        ("handy online support", "在线客服便捷"),
    ),
}

# Fit for every family of a department.
BY_DEPARTMENT: Final[dict[str, Bank]] = {
    "kitchen": {
        "value": (
            ("two-year kitchen warranty", "厨具两年质保"),
            ("housewarming gift price", "乔迁好礼价"),
            ("cook-club voucher", "厨艺会员券"),
            ("family-pack saving", "家庭装更划算"),
        ),
        "quality": (
            ("food-grade materials", "食品级材质"),
            ("thick sturdy walls", "加厚结实壁身"),
            ("heat-proof base", "耐热稳固底部"),
            ("chip-resistant rim", "防磕碰边口"),
        ),
        "care": (
            ("dishwasher-safe finish", "可机洗表面"),
            ("easy-rinse interior", "内壁易冲洗"),
            ("no-tint coating", "不易染色涂层"),
            ("odour-free inside", "内里不留味"),
        ),
        "design": (
            ("warm handmade look", "温润手作感"),
            ("slim curved profile", "纤巧弧形轮廓"),
            ("two-tone kitchen colours", "双色厨房配色"),
            ("cafe-style shape", "咖啡馆风造型"),
        ),
        "convenience": (
            ("stackable storage form", "可叠放收纳"),
            ("drip-free pouring edge", "倒水不滴漏"),
            ("non-slip bottom", "防滑底部设计"),
            ("small-cupboard fit", "小橱柜放得下"),
        ),
    },
    "beauty": {
        "value": (
            ("travel-size extra", "赠旅行小样"),
            ("refill saving plan", "替换装更省"),
            ("beauty-club points", "美妆会员积分"),
            ("sample-first promise", "先试小样再拆封"),
        ),
        "quality": (
            ("stable tested formula", "稳定实测配方"),
            ("botanical plant extracts", "植物萃取成分"),
            ("small-batch blending", "小批次调制"),
            ("silky even texture", "丝滑均匀质地"),
        ),
        "care": (
            ("gentle everyday recipe", "日用温和配方"),
            ("alcohol-light blend", "低酒精调配"),
            ("cruelty-free production", "生产无动物测试"),
            ("airtight freshness seal", "密封锁鲜盖口"),
        ),
        "design": (
            ("jewel-like container", "珠宝感瓶身"),
            ("frosted glass look", "磨砂玻璃观感"),
            ("rose-gold trim", "玫瑰金饰边"),
            ("vanity-table elegance", "梳妆台优雅感"),
        ),
        "convenience": (
            ("purse-size format", "随身小包放得下"),
            ("leak-proof closure", "防漏密封口"),
            ("one-press opening", "一按即开"),
            ("quick morning routine", "晨间快速上妆"),
        ),
    },
    "living": {
        "value": (
            ("room-set discount", "整屋搭配优惠"),
            ("free placement service", "免费摆放服务"),
            ("three-year home warranty", "家居三年质保"),
            ("moving-house voucher", "搬家优惠券"),
        ),
        "quality": (
            ("solid wood parts", "实木部件用料"),
            ("steady weighted base", "稳重配重底座"),
            ("tight even joints", "接缝紧密平整"),
            ("fade-resistant colour", "不易褪色工艺"),
        ),
        "care": (
            ("dust-shedding surface", "不易积灰表面"),
            ("removable washable parts", "部件可拆洗"),
            ("pet-friendly material", "宠物友好材质"),
            ("scratch-guard feet", "防刮护垫脚"),
        ),
        "design": (
            ("mid-century charm", "复古中古风格"),
            ("sculptural room accent", "雕塑感点缀"),
            ("warm earth tones", "温暖大地色调"),
            ("soft lounge mood", "慵懒休闲氛围"),
        ),
        "convenience": (
            ("tool-free assembly", "免工具安装"),
            ("easy-move build", "轻松挪动摆位"),
            ("narrow-corner fit", "窄角落放得下"),
            ("any-room placement", "各房间百搭"),
        ),
    },
    "electronics": {
        "value": (
            ("trade-in bonus", "以旧换新补贴"),
            ("student price plan", "学生优惠价"),
            ("free protective case", "赠保护套"),
            ("interest-free months", "免息月付方案"),
        ),
        "quality": (
            ("aluminium inner frame", "铝合金内框"),
            ("long-life battery", "长续航电池"),
            ("noise-tested circuits", "电路低噪测试"),
            ("durable button mechanism", "按键耐用结构"),
        ),
        "care": (
            ("fingerprint-resistant shell", "防指纹外壳"),
            ("splash-resistant body", "防泼溅机身"),
            ("battery-saving charging", "电池养护充电"),
            ("soft cleaning cloth", "附软质清洁布"),
        ),
        "design": (
            ("thin metal outline", "纤薄金属轮廓"),
            ("soft status light", "柔和状态灯"),
            ("studio-grey palette", "录音室灰色系"),
            ("seamless one-piece shell", "一体无缝外壳"),
        ),
        "convenience": (
            ("fast usb charging", "快速充电接口"),
            ("one-touch pairing", "一触即连"),
            ("pocket-friendly carrying", "口袋便携收纳"),
            ("voice-guided setup", "语音引导设置"),
        ),
    },
    "fashion": {
        "value": (
            ("free colour exchange", "免费换颜色"),
            ("outfit-pair discount", "搭配购立减"),
            ("season-end price", "季末优惠价"),
            ("style-club cashback", "穿搭会员返利"),
        ),
        "quality": (
            ("dense even stitching", "密实均匀走线"),
            ("hard-wearing material", "耐磨面料材质"),
            ("shape-keeping structure", "定型不易变形"),
            ("colour-fast dyeing", "染色牢固不掉色"),
        ),
        "care": (
            ("water-repellent surface", "防泼水表面"),
            ("breathable inner lining", "透气内里"),
            ("spare dust bag", "附防尘收纳袋"),
            ("soft-brush cleaning", "软刷即可清洁"),
        ),
        "design": (
            ("city-casual style", "都市休闲风"),
            ("contrast-colour details", "撞色细节设计"),
            ("retro street mood", "复古街头感"),
            ("crisp tailored outline", "利落剪裁轮廓"),
        ),
        "convenience": (
            ("easy-match colours", "百搭易配色"),
            ("adjustable fit", "可调节松紧"),
            ("all-day comfort", "全天舒适佩戴"),
            ("quick-fasten closure", "快扣开合"),
        ),
    },
    "outdoor": {
        "value": (
            ("group-trip discount", "组团出行优惠"),
            ("camp-season price", "露营季优惠价"),
            ("free carry strap", "赠便携背带"),
            ("five-year repair service", "五年维修服务"),
        ),
        "quality": (
            ("weatherproof materials", "耐候防水材料"),
            ("reinforced stress points", "受力点加固"),
            ("field-tested durability", "野外实测耐用"),
            ("rust-free fittings", "防锈五金配件"),
        ),
        "care": (
            ("rinse-off surface", "水冲即净表面"),
            ("quick-dry material", "速干易护材质"),
            ("replaceable spare parts", "零件可更换"),
            ("sun-resistant coating", "抗晒保护涂层"),
        ),
        "design": (
            ("forest-tone colours", "森林系配色"),
            ("rugged explorer look", "硬朗探险风"),
            ("reflective trim lines", "反光饰条设计"),
            ("vintage camp style", "复古露营风"),
        ),
        "convenience": (
            ("light carry weight", "轻量好携带"),
            ("clip-on carabiner", "附登山扣挂件"),
            ("glove-friendly handling", "戴手套可操作"),
            ("fast camp setup", "营地快速就位"),
        ),
    },
}

# Fit for one family: one phrase of each kind, in the order of words.KINDS.
BY_FAMILY: Final[dict[str, tuple[Pair, Pair, Pair, Pair, Pair]]] = {
    "mug": (
        ("matching saucer gift", "赠同款杯碟"),
        ("high-fired body", "高温烧制杯身"),
        ("tea-resistant glaze", "防茶渍釉面"),
        ("rounded ear handle", "圆润耳形杯把"),
        ("microwave-ready cup", "可微波加热"),
    ),
    "kettle": (
        ("free descaling kit", "赠除垢套装"),
        ("double-layer wall", "双层隔热壶身"),
        ("wide-mouth cleaning", "大口径好清洗"),
        ("gooseneck spout line", "鹅颈壶嘴线条"),
        ("auto shut-off", "水开自动断电"),
    ),
    "bowl": (
        ("four-bowl set price", "四只装套价"),
        ("dense smooth body", "致密光滑碗身"),
        ("grease-free rinsing", "油渍一冲即净"),
        ("hand-drawn rim", "手绘碗沿纹饰"),
        ("anti-scald foot ring", "防烫碗底圈足"),
    ),
    "pan": (
        ("free wooden spatula", "赠木质锅铲"),
        ("even-heating core", "均匀导热锅芯"),
        ("non-stick surface", "不粘锅面"),
        ("wood-look handle", "木纹锅柄造型"),
        ("all-stove compatibility", "多灶具通用"),
    ),
    "lipstick": (
        ("two-shade duo offer", "双色组合优惠"),
        ("long-wear pigment", "持久显色色粉"),
        ("balm-soft core", "润唇膏芯"),
        ("bullet-shaped tube", "子弹头膏管"),
        ("mirror-free touch-up", "免镜补妆"),
    ),
    "serum": (
        ("extra dropper gift", "赠替换滴管"),
        ("high-purity essence", "高纯度精华"),
        ("light watery absorption", "水润轻薄吸收"),
        ("slender dropper vial", "修长滴管瓶型"),
        ("measured-drop pipette", "定量滴取设计"),
    ),
    "cream": (
        ("value jar refill", "大罐替换芯"),
        ("rich whipped texture", "绵密乳霜质地"),
        ("overnight moisture layer", "整夜保湿层"),
        ("pebble-shaped jar", "鹅卵石罐型"),
        ("built-in scoop", "附挑勺易取用"),
    ),
    "perfume": (
        ("mini spray gift", "赠迷你喷雾"),
        ("layered scent notes", "层次分明香调"),
        ("soft-landing mist", "柔和亲肤喷雾"),
        ("sculpted crystal flask", "雕琢水晶瓶型"),
        ("fine-mist spray head", "细雾按压喷头"),
    ),
    "lamp": (
        ("free spare bulb", "赠备用灯泡"),
        ("flicker-free light", "无频闪光源"),
        ("washable lamp shade", "灯罩可水洗"),
        ("glowing dome silhouette", "圆顶灯罩轮廓"),
        ("stepless touch dimming", "触控无极调光"),
    ),
    "sofa": (
        ("free cushion pair", "赠抱枕一对"),
        ("high-resilience foam", "高回弹海绵"),
        ("zip-off covers", "拉链式可拆套"),
        ("low deep seat", "低矮宽深坐感"),
        ("flat-box delivery", "扁盒送货入户"),
    ),
    "vase": (
        ("dried-flower gift", "赠干花一束"),
        ("watertight inner wall", "内壁不渗水"),
        ("brush-friendly neck", "瓶颈便于刷洗"),
        ("slender flower neck", "修长瓶颈线条"),
        ("ready bouquet opening", "瓶口易插花"),
    ),
    "clock": (
        ("free battery pair", "赠电池一对"),
        ("accurate quartz movement", "精准石英机芯"),
        ("scratch-guard glass cover", "防刮玻璃钟面"),
        ("uncluttered dial", "清爽钟盘设计"),
        ("no-tick sweep", "静音扫秒"),
    ),
    "speaker": (
        ("second-speaker discount", "第二台立减"),
        ("full bass driver", "低频饱满单元"),
        ("wipe-clean mesh", "网面易擦拭"),
        ("woven grille front", "编织网罩正面"),
        ("multi-room playback", "多房间联播"),
    ),
    "headphones": (
        ("spare ear pads", "赠替换耳垫"),
        ("wide-range drivers", "宽频发声单元"),
        ("low-pressure ear cushions", "低压柔软耳罩"),
        ("arched slim band", "纤细弧形头梁"),
        ("fold-in carry form", "折叠便携形态"),
    ),
    "camera": (
        ("free memory card", "赠存储卡"),
        ("multi-coated lens", "多层镀膜镜头"),
        ("sealed sensor chamber", "密封防尘感光舱"),
        ("film-era body", "胶片时代机身"),
        ("instant photo sharing", "照片即拍即传"),
    ),
    "phone": (
        ("free screen film", "赠屏幕贴膜"),
        ("toughened glass screen", "强化玻璃屏"),
        ("low-glare display", "低眩光显示屏"),
        ("edge-to-edge front", "全面屏正面"),
        ("dual-card standby", "双卡双待"),
    ),
    "handbag": (
        ("matching purse gift", "赠同款零钱包"),
        ("dense-grain material", "密纹包身用料"),
        ("crease-resistant body", "不易折痕包身"),
        ("gold-tone clasp", "金色锁扣点缀"),
        ("many-pocket inside", "多隔层内袋"),
    ),
    "sneaker": (
        ("spare lace pair", "赠备用鞋带"),
        ("bouncy rubber sole", "回弹橡胶鞋底"),
        ("machine-washable upper", "鞋面可机洗"),
        ("chunky sole outline", "厚底鞋型轮廓"),
        ("slip-on heel", "一脚蹬鞋跟"),
    ),
    "hat": (
        ("two-hat bundle price", "两顶组合价"),
        ("fine woven brim", "细密编织帽檐"),
        ("sweat-wicking band", "吸汗帽圈"),
        ("wide-brim silhouette", "宽檐帽型轮廓"),
        ("roll-up packing", "可卷起收纳"),
    ),
    "watch": (
        ("extra strap gift", "赠替换表带"),
        ("hardened mineral glass", "硬化矿物表镜"),
        ("sweat-safe strap", "防汗表带"),
        ("slim round case", "纤薄圆形表壳"),
        ("quick-swap strap", "表带快拆更换"),
    ),
    "bottle": (
        ("spare cap gift", "赠备用瓶盖"),
        ("vacuum steel wall", "真空不锈钢壁"),
        ("wide-neck washing", "广口易刷洗"),
        ("matte trail colours", "哑光山径色"),
        ("one-hand lid", "单手开盖"),
    ),
    "tent": (
        ("free ground sheet", "赠防潮地布"),
        ("aluminium pole frame", "铝合金帐杆"),
        ("mesh airflow panels", "透气纱网面"),
        ("peaked ridge outline", "尖顶脊线轮廓"),
        ("pop-up pitching", "免搭速开"),
    ),
    "backpack": (
        ("free rain cover", "赠防雨罩"),
        ("tear-resistant fabric", "防撕裂面料"),
        ("air-channel back panel", "背板透气导流"),
        ("roll-top shape", "卷口包型设计"),
        ("quick-access side pockets", "侧袋随手取物"),
    ),
    "lantern": (
        ("spare battery pack", "赠备用电池"),
        ("shatter-resistant shade", "防碎灯罩"),
        ("cool-running lamp head", "灯头低温不烫"),
        ("old-railway look", "老铁路灯造型"),
        ("hang-anywhere hook", "随处可挂挂钩"),
    ),
}


class Noun(NamedTuple):
    """What a family is called and measured by.

    `each` goes before the noun; one of `first`, `first + step`, ..., `last` is filled into `measure`.
    """

    noun: Pair
    each: Pair
    measure: Pair
    first: int
    last: int
    step: int


NOUNS: Final[dict[str, Noun]] = {
    "mug": Noun(("mug", "马克杯"), ("a", "一只"), ("{} ml", "容量{}毫升"), 250, 500, 50),
    "kettle": Noun(("kettle", "烧水壶"), ("a", "一只"), ("{} ml", "容量{}毫升"), 900, 1800, 100),
    "bowl": Noun(("bowl", "汤碗"), ("a", "一只"), ("{} cm wide", "口径{}厘米"), 12, 24, 2),
    "pan": Noun(("pan", "平底锅"), ("a", "一口"), ("{} cm wide", "直径{}厘米"), 20, 32, 2),
    "lipstick": Noun(("lipstick", "口红"), ("a", "一支"), ("{} g", "净重{}克"), 2, 5, 1),
    "serum": Noun(("serum", "精华液"), ("a", "一瓶"), ("{} ml", "净含量{}毫升"), 15, 50, 5),
    "cream": Noun(("cream", "面霜"), ("a", "一罐"), ("{} g", "净含量{}克"), 30, 100, 10),
    "perfume": Noun(("perfume", "香水"), ("a", "一瓶"), ("{} ml", "净含量{}毫升"), 30, 100, 10),
    "lamp": Noun(("lamp", "台灯"), ("a", "一盏"), ("{} cm tall", "高{}厘米"), 30, 60, 5),
    "sofa": Noun(("sofa", "沙发"), ("a", "一张"), ("{} cm wide", "宽{}厘米"), 140, 240, 10),
    "vase": Noun(("vase", "花瓶"), ("a", "一只"), ("{} cm tall", "高{}厘米"), 18, 42, 2),
    "clock": Noun(("clock", "时钟"), ("a", "一台"), ("{} cm wide", "宽{}厘米"), 16, 34, 2),
    "speaker": Noun(("speaker", "音箱"), ("a", "一台"), ("{} watts", "功率{}瓦"), 10, 60, 5),
    "headphones": Noun(("headphones", "耳机"), ("a pair of", "一副"), ("{} g", "重{}克"), 180, 300, 10),
    "camera": Noun(("camera", "相机"), ("a", "一台"), ("{} g", "机身重{}克"), 280, 680, 40),
    "phone": Noun(("phone", "手机"), ("a", "一部"), ("{} GB storage", "存储{}GB"), 128, 256, 128),
    "handbag": Noun(("handbag", "手提包"), ("a", "一只"), ("{} cm wide", "宽{}厘米"), 18, 36, 2),
    "sneaker": Noun(("sneaker", "运动鞋"), ("a", "一只"), ("size {}", "尺码{}码"), 36, 45, 1),
    "hat": Noun(("hat", "帽子"), ("a", "一顶"), ("{} cm around", "帽围{}厘米"), 54, 60, 1),
    "watch": Noun(("watch", "手表"), ("a", "一块"), ("{} mm case", "表径{}毫米"), 30, 44, 2),
    "bottle": Noun(("bottle", "水壶"), ("a", "一只"), ("{} ml", "容量{}毫升"), 400, 1000, 50),
    "tent": Noun(("tent", "帐篷"), ("a", "一顶"), ("for {} people", "可住{}人"), 2, 6, 1),
    "backpack": Noun(("backpack", "背包"), ("a", "一只"), ("{} litres", "容量{}升"), 18, 60, 2),
    "lantern": Noun(("lantern", "提灯"), ("a", "一盏"), ("{} lumens", "亮度{}流明"), 200, 1000, 50),
}

# A department's word in short names, and its place or use in descriptions (which holds that word).
DEPARTMENT_WORDS: Final[dict[str, tuple[Pair, Pair]]] = {
    "kitchen": (("kitchen", "厨房"), ("the kitchen", "厨房使用")),
    "beauty": (("beauty", "美妆"), ("a daily beauty routine", "日常美妆")),
    "living": (("living room", "客厅"), ("the living room", "客厅布置")),
    "electronics": (("digital", "数码"), ("everyday digital life", "数码生活")),
    "fashion": (("fashion", "时尚"), ("a fashion wardrobe", "时尚穿搭")),
    "outdoor": (("outdoor", "户外"), ("outdoor weekend trips", "户外出行")),
}

COLOUR_WORDS: Final[dict[str, str]] = {
    "red": "红色",
    "orange": "橙色",
    "pink": "粉色",
    "cream": "米色",
    "green": "绿色",
    "teal": "青色",
    "navy": "藏青色",
    "white": "白色",
    "grey": "灰色",
    "black": "黑色",
    "yellow": "黄色",
    "blue": "蓝色",
    "purple": "紫色",
    "brown": "棕色",
    "beige": "米黄色",
    "gold": "金色",
    "silver": "银色",
}
FINISH_WORDS: Final[dict[str, str]] = {
    "ceramic": "陶瓷",
    "steel": "钢制",
    "glass": "玻璃",
    "wood": "木质",
    "leather": "皮革",
    "fabric": "布艺",
    "plastic": "塑料",
    "aluminium": "铝制",
}

DESCRIPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "en": (
        "{each} {colour} {finish} {noun} for {place}, {measure}.",
        "{each} {colour} {noun} in {finish}, {measure}, made for {place}.",
        "for {place}: {each} {colour} {finish} {noun}, {measure}.",
        "{each} {finish} {noun}, {measure}, in {colour}, for {place}.",
        "picked for {place}: {each} {colour} {noun} in {finish}, {measure}.",
        "{each} {colour} {finish} {noun}, {measure}, a fit for {place}.",
    ),
    "zh": (
        "{each}{colour}{finish}{noun}，适合{place}，{measure}。",
        "{colour}{noun}，{finish}外观，{measure}，为{place}而做。",
        "适合{place}：{each}{colour}{finish}{noun}，{measure}。",
        "{each}{finish}{noun}，{measure}，{colour}款，适合{place}。",
        "为{place}挑选：{each}{colour}{noun}，{finish}外观，{measure}。",
        "{each}{colour}{finish}{noun}，{measure}，{place}正合适。",
    ),
}
