from .local import SITES as SITES
from .local import LocalSite as LocalSite
from .local import Score as Score
from .local import SiteTask as SiteTask
from .local import make_site as make_site
from .maps import MapSite as MapSite
from .real_estate import RealEstateSite as RealEstateSite
from .social_media import SocialMediaSite as SocialMediaSite
