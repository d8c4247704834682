"""The tab where visitors take an adapter away: as files of other engines, or to the hub."""
