"""Dense pictures: crowds of small objects, bar charts and ledgers, where nearly every visual token is some answer."""
