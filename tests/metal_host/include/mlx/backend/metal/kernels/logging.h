#pragma once  // no logging on the host
